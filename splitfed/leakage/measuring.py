"""The whole audit: every candidate split under every privacy mode, attacked twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from splitfed.errors import ModelError, PrivacyError, TrainingDiverged, UserError
from splitfed.leakage.advice import advice
from splitfed.leakage.candidates import Candidate, candidates
from splitfed.leakage.inversion import invert
from splitfed.leakage.likeness import Likeness, correlations, in_order, likeness
from splitfed.leakage.membership import Crowd, crowd, shared_after, told_apart
from splitfed.leakage.releases import release_of
from splitfed.leakage.subject import Subject
from splitfed.leakage.targets import Target, pixels, targets_of
from splitfed.sharing import split_model
from splitfed.tensors import Tensors

SCHEMA = 1
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard the attacks try. More takes longer, in proportion.

    Attributes:
        images: updates that are attacked in each row.
        behind: images behind each update; 1 is the worst case.
        restarts: searches for each.
        iterations: of each search.
        as_trained: attack the steps, optimizer and algorithm of the real round on those images
            instead of one plain step.
        rounds: of training before the membership attack, at most those of the agreement.
        members: training images of it, at most.
        seed: of all that is drawn.
    """

    images: int = 3
    behind: int = 1
    restarts: int = 2
    iterations: int = 200
    as_trained: bool = False
    rounds: int = 5
    members: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        for key, value in asdict(self).items():
            if key not in ("seed", "as_trained") and value < 1:
                raise UserError(f"{key} = {value}", "give 1 or more")


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """A true image and what was made of it, uint8 [C, H, W]; for the page alone.

    Attributes:
        true, guess: the same in every row.
        made: by the label of the row's split and its mode; the best restart.
    """

    true: Tensor
    guess: Tensor
    made: dict[tuple[str, str], tuple[Tensor, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Audit:
    """What was found.

    Attributes:
        found: as JSON has it.
        pictures: one an image of the attacked updates.
    """

    found: dict[str, Any]
    pictures: list[Picture]


def measure(subject: Subject, effort: Effort, say: Say = lambda text: None) -> Audit:
    """Attack what would travel. Equal arguments give an equal :attr:`Audit.found` on one machine
    with one number of threads.

    Args:
        say: told what is being attacked.

    Raises:
        UserError: of any kind, where no row can be measured.
    """
    splits = candidates(subject.module, subject.split)
    modes = ["none"] if subject.mode == "none" else ["none", subject.mode]
    people = crowd(subject.train, subject.held_out, most=effort.members, seed=effort.seed)
    targets = list(
        targets_of(
            subject,
            people.attacker,
            count=effort.images,
            behind=effort.behind,
            seed=effort.seed,
        )
    )
    pictures = [
        Picture(true=_bytes(true), guess=_bytes(guess), made={})
        for target in targets
        for true, guess in zip(target.true, target.guess, strict=True)
    ]
    guesses = [
        likeness(guess, true)
        for target in targets
        for guess, true in zip(target.guess, target.true, strict=True)
    ]
    rows = []
    for mode in modes:
        trained: Tensors = {}
        for place, candidate in enumerate(splits, start=1):
            say(f"{mode}, split {place} of {len(splits)}: {candidate.label}")
            row = _row(candidate, mode)
            rows.append(row)
            try:
                row |= _inverted(subject, candidate, mode, targets, pictures, effort)
                row |= _told(subject, candidate, mode, people, trained, effort)
            except (PrivacyError, TrainingDiverged) as error:
                row["refused"] = error.message
    _some(rows)
    guess = _best(guesses)
    return Audit(
        found={
            "schema": SCHEMA,
            "party": subject.party,
            "contract": subject.agreed.terms.contract.hex(),
            "mode": subject.mode,
            "effort": asdict(effort),
            "rounds": min(effort.rounds, subject.agreed.terms.rounds),
            "members": len(people.members),
            "guess": guess,
            "rows": rows,
            "advice": advice(rows, subject.mode),
        },
        pictures=pictures,
    )


def _row(candidate: Candidate, mode: str) -> dict[str, Any]:
    shared = candidate.split.shared
    return {
        "split": candidate.label,
        "tensors": [spec.name for spec in shared],
        "agreed": candidate.agreed,
        "mode": mode,
        "parameters": sum(spec.size for spec in shared),
        "bytes": sum(spec.nbytes for spec in shared),
        "steps": None,
        "inversion": None,
        "membership": None,
        "refused": None,
    }


def _inverted(
    subject: Subject,
    candidate: Candidate,
    mode: str,
    targets: Sequence[Target],
    pictures: Sequence[Picture],
    effort: Effort,
) -> dict[str, Any]:
    """The best of all restarts for every image, by its correlation with the true one: nobody but
    the owner can choose like that, so this attacker does no worse than a real one."""
    best: list[Likeness] = []
    rows: list[dict[str, Any]] = []
    steps = 0
    for number, target in enumerate(targets):
        release = release_of(
            subject,
            candidate.split,
            target.images,
            mode,
            as_trained=effort.as_trained,
            seed=effort.seed + number,
        )
        steps = release.steps
        made = invert(
            release,
            target.known,
            restarts=effort.restarts,
            iterations=effort.iterations,
            seed=effort.seed,
        )
        ends = [in_order(pixels(one, target.known), target.true) for one in made]
        for place, true in enumerate(target.true):
            found, end = max(
                ((likeness(end[place], true), end[place]) for end in ends),
                key=lambda pair: pair[0].correlation,
            )
            nearest = (correlations(end, target.others[place]) < found.correlation).all()
            rows.append(found.row() | {"identified": bool(nearest)})
            pictures[len(best)].made[candidate.label, mode] = (_bytes(end), rows[-1])
            best.append(found)
    return {"steps": steps, "inversion": _best(best) | {"images": rows}}


def _told(
    subject: Subject,
    candidate: Candidate,
    mode: str,
    people: Crowd,
    trained: Tensors,
    effort: Effort,
) -> dict[str, Any]:
    """Trained once where no algorithm and no noise makes the training depend on the split."""
    rounds = min(effort.rounds, subject.agreed.terms.rounds)
    names = candidate.split.shared_names
    once = mode == "none" and subject.agreed.algorithm not in ("fedrep", "fedbabu")
    split = split_model(subject.module, ("*",)) if once else candidate.split
    if not (once and trained):
        shared = shared_after(subject, split, people.members, mode, rounds=rounds, seed=effort.seed)
        trained.clear()
        trained.update(shared)
    shared = {name: tensor for name, tensor in trained.items() if name in names}
    return {"membership": told_apart(subject, candidate.split, shared, people).row()}


def _bytes(image: Tensor) -> Tensor:
    return image.mul(255).round().to(torch.uint8)


def _best(found: Sequence[Likeness]) -> dict[str, float]:
    """The best of each figure over the images, and their medians (the lower of two)."""
    psnr = sorted(one.psnr for one in found)
    ssim = sorted(one.ssim for one in found)
    middle = (len(found) - 1) // 2
    return {
        "psnr": round(psnr[-1], 2),
        "ssim": round(ssim[-1], 3),
        "psnr_median": round(psnr[middle], 2),
        "ssim_median": round(ssim[middle], 3),
    }


def _some(rows: Sequence[dict[str, Any]]) -> None:
    if all(row["refused"] for row in rows):
        raise ModelError(f"nothing could be measured: {rows[0]['refused']}", "mend that first")
