"""One federation twice: with attackers among its parties, and with the honest ones alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from splitfed.config import NEEDS
from splitfed.data import ImageSet
from splitfed.errors import DataError, UserError
from splitfed.evaluation import Predictions
from splitfed.random import generator
from splitfed.run.learner import LocalLearner
from splitfed.simulation.attacks import TARGET, Attack, stamped
from splitfed.simulation.federation import Federation
from splitfed.simulation.party import Party
from splitfed.simulation.stage import Stage

CLIP = 1.0
"""The radius of centred clipping, where nobody says another."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of the honest parties of one federation.

    Attributes:
        parties: figures by honest party: accuracy of the "shared" model (of what federating made,
            private layers included), of the "personal" one that it kept (and which that is:
            "kept"), of "local_only" and "fused"; "backdoor" and "backdoor_local_only": how often
            an image with the trigger is taken for the target. None where there is none.
        rejected: what honest parties refused, by whom.
        alarms: what made honest parties distrust, by whom.
        outcomes: each honest party's rounds, such as ["agreed", "void", "alone"].
    """

    parties: Mapping[str, Mapping[str, Any]]
    rejected: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    alarms: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    outcomes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def mean(self, key: str) -> float | None:
        """The mean of a figure over the honest parties that have it."""
        found = [row[key] for row in self.parties.values() if row[key] is not None]
        return fmean(found) if found else None

    def worst(self, key: str) -> float | None:
        """The least of a figure among the honest parties that have it."""
        return min(
            (row[key] for row in self.parties.values() if row[key] is not None), default=None
        )

    def document(self) -> dict[str, Any]:
        """Everything, for a program to read."""
        return {
            "mean": {key: self.mean(key) for key in FIGURES},
            "parties": {name: dict(row) for name, row in self.parties.items()},
            "rejected": {name: list(rows) for name, rows in self.rejected.items()},
            "alarms": {name: list(rows) for name, rows in self.alarms.items()},
            "outcomes": {name: list(rows) for name, rows in self.outcomes.items()},
        }


FIGURES = ("shared", "personal", "local_only", "fused", "backdoor", "backdoor_local_only")


def defended(
    federation: Federation, rule: str, *, attackers: int, clip: float | None, root: str
) -> Federation:
    """``federation`` under an aggregation rule that is to stand ``attackers``.

    Args:
        clip: of "centred-clipping"; None: :data:`CLIP`.
        root: the party that "fltrust" trusts.

    Raises:
        UserError: no such rule.
    """
    if rule not in NEEDS:
        raise UserError(f"--rule {rule}", f"choose one of: {', '.join(NEEDS)}")
    need = NEEDS[rule]
    return replace(
        federation,
        rule=rule,
        byzantine=0 if rule == "mean" else max(attackers, int(need.told)),
        clip=(CLIP if clip is None else clip) if need.reads == "clip" else None,
        root=root if need.reads == "root" else None,
    )


def play(
    federation: Federation,
    parties: Sequence[Party],
    *,
    test: ImageSet,
    attack: Attack | None = None,
    attackers: int = 0,
    out: Path | None = None,
) -> Result:
    """Run it with the last ``attackers`` of ``parties`` lying, and measure the honest ones.

    Args:
        test: labelled images that nobody trains on.
        out: where run folders are kept; None: nowhere.
    """
    first = len(parties) - attackers
    cast = [
        replace(party, attack=attack) if place >= first else party
        for place, party in enumerate(parties)
    ]
    stage = Stage()
    reports = federation.simulate(cast, out=out, stage=stage)
    honest = [party.name for party in cast if party.attack is None]
    trigger = with_trigger(test) if attack is not None and attack.trigger else None
    return Result(
        parties={name: _figures(stage.learners[name], test, trigger) for name in honest},
        rejected={name: reports[name]["faults"]["rejected"] for name in honest},
        alarms={name: reports[name]["faults"]["alarms"] for name in honest},
        outcomes={name: [r["outcome"] for r in reports[name]["history"]] for name in honest},
    )


def undisturbed(
    federation: Federation,
    parties: Sequence[Party],
    *,
    test: ImageSet,
    attack: Attack | None,
    attackers: int,
) -> Result:
    """What the honest parties come to when the attackers are simply absent: by the mean, which
    nothing beats where nobody lies. With a single honest party, who would then be alone, the
    attackers are present and honest."""
    honest = parties[: len(parties) - attackers]
    plain = replace(
        federation, rule="mean", byzantine=0, clip=None, root=None, minimum_parties=None
    )
    cast = honest if len(honest) > 1 else parties
    stage = Stage()
    plain.simulate(cast, stage=stage)
    trigger = with_trigger(test) if attack is not None and attack.trigger else None
    names = [party.name for party in honest]
    return Result(parties={name: _figures(stage.learners[name], test, trigger) for name in names})


def divided(images: ImageSet, parts: int, seed: int, what: str) -> list[ImageSet]:
    """``images`` at random in so many parts, as equal as can be.

    Raises:
        DataError: fewer images than parts.
    """
    if len(images) < parts:
        raise DataError(
            f"{len(images)} {what} images for {parts} parties", "give more images, or fewer parties"
        )
    order = torch.randperm(len(images), generator=generator(seed, "simulate", what))
    return [images.subset(order[part::parts]) for part in range(parts)]


def with_trigger(test: ImageSet) -> ImageSet:
    """The test images of other classes than the target, each with the trigger."""
    assert test.labels is not None
    return stamped(test.subset((test.labels != TARGET).nonzero().flatten()))


def _figures(learner: LocalLearner, test: ImageSet, trigger: ImageSet | None) -> dict[str, Any]:
    kept, personal = learner.personal()
    models: dict[str, nn.Module | None] = {
        "shared": learner.model,
        "personal": personal,
        "local_only": learner.baseline,
        "fused": learner.fused,
    }
    found: dict[str, Any] = {
        key: _accuracy(learner.predict(model, test)) for key, model in models.items()
    }
    found["kept"] = kept
    found["backdoor"] = _taken(learner.predict(personal, trigger))
    found["backdoor_shared"] = _taken(learner.predict(learner.model, trigger))
    found["backdoor_local_only"] = _taken(learner.predict(learner.baseline, trigger))
    return found


def _accuracy(found: Predictions | None) -> float | None:
    if found is None or found.correct is None:
        return None
    return float(found.correct.to(torch.float64).mean())


def _taken(found: Predictions | None) -> float | None:
    """How often the answer is the target."""
    if found is None or found.probabilities is None:
        return None
    return float((found.probabilities.argmax(dim=1) == TARGET).to(torch.float64).mean())
