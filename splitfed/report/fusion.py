"""What a report says about fusion: what was exchanged, what it cost, which model was kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from splitfed.report.rows import FusionPart
from splitfed.report.schema import Report
from splitfed.report.words import (
    count,
    kept,
    label,
    listed,
    percent,
    size,
    subject,
    upward,
)

_METHODS = {
    "distill": "by distillation",
    "average": "by averaging private layers",
    "ensemble": "as an ensemble",
}
_MADE = {
    "distill": "every party's model learnt from the averaged outputs of all parties' models on the "
    "reference images",
    "average": "the private layers of all parties were matched (units that do the same work were "
    "brought into the same order) and averaged",
    "ensemble": "the parties' models were joined to one that averages the predictions of all",
}
_WITHOUT = {
    "void": "was void: what was released for it was refused",
    "unusable": "came to nothing: what all parties released was admitted, and no usable model "
    "could be made of it",
    "not reached": "was not reached: the run ended before it",
    "none": "did not take place",
}


class Choice(NamedTuple):
    """A model that could be kept, and its accuracy on the own validation images."""

    label: str
    accuracy: float | None
    kept: bool


class Left(NamedTuple):
    """The parties whose outputs, and whose private layers, left for fusion or may have."""

    outputs: tuple[str, ...]
    layers: tuple[str, ...]


def agreed(report: Report) -> FusionPart | None:
    """The report's fusion; None where the parties agreed on none."""
    found = report.fusion
    return None if found is None or found.method == "none" else found


def told(report: Report) -> list[str]:
    """What was done and exchanged, how big it was and what it spent, as paragraphs; none
    without fusion."""
    fusion = agreed(report)
    if fusion is None:
        return []
    if fusion.outcome == "fused":
        first = f"After the last round {_MADE[fusion.method]}."
    else:
        first = (
            f"Fusion {_METHODS[fusion.method]} was agreed, but it {_WITHOUT[fusion.outcome]}. "
            "There is no fused model."
        )
    lines = [first]
    if _released(fusion) or fusion.outcome == "fused":
        lines.append(" ".join(filter(None, (_exchanged(report, fusion), _came_in(fusion)))))
    lines.append(" ".join(filter(None, (_size(fusion), _spent(report, fusion)))))
    return [line for line in lines if line]


def left(reports: Mapping[str, Report]) -> Left:
    """Who released what. Where a party's size was not measured it counts as released: a report
    must not say that something stayed when nobody knows."""
    found: dict[str, list[str]] = {"outputs": [], "private": []}
    for name, report in reports.items():
        if report.fusion is not None and report.fusion.kind and _released(report.fusion):
            found[report.fusion.kind].append(name)
    return Left(tuple(found["outputs"]), tuple(found["private"]))


def choices(report: Report) -> list[Choice]:
    """The models that the party chose from, with the figures that decided."""
    fusion = agreed(report)
    if fusion is None or fusion.validation is None:
        return []
    return [
        Choice(label(report, key), getattr(fusion.validation, key), kept(report) == key)
        for key in ("local_only", "partial", "fused")
    ]


def kept_line(report: Report) -> str:
    """Which model was kept, and by which figures, as one sentence; "" where nobody says."""
    chosen = kept(report)
    if chosen is None:
        return ""
    known = [
        f"{choice.label.lower()} {percent(choice.accuracy)}"
        for choice in choices(report)
        if choice.accuracy is not None
    ]
    why = f" (own validation images: {', '.join(known)})" if known else ""
    if known and chosen == "local_only":
        why += "; no other is better there by more than one standard error"
    return f"Kept: {subject(report, chosen)}{why}."


def promises(reports: Mapping[str, Report]) -> list[str]:
    """What 'not worse' means, and what it does not, each sentence once; none without fusion."""
    joined = [fusion for fusion in map(agreed, reports.values()) if fusion is not None]
    unjudged = [
        fusion
        for fusion in joined
        if fusion.outcome == "fused"
        and (fusion.validation is None or fusion.validation.fused is None)
    ]
    lines = []
    if len(unjudged) < len(joined):
        lines.append(
            "A fused model replaces the party's own only where it is better on the party's own "
            "validation images; and either replaces the model trained alone, if there is one, only "
            "where it is better there by more than one standard error. The promise “not worse” is "
            "about those images and no others: on the test images, and on new patients, the kept "
            "model can still be worse. What was measured on the test images is under “How the "
            "models compare”."
        )
    if unjudged:
        lines.append(
            "Where the fused model was not judged on own validation images, there is no promise "
            "that it is not worse than the others."
        )
    return lines


def _released(fusion: FusionPart) -> bool:
    """Whether this party's own part left, or may have."""
    if fusion.payload_bytes is None:
        return fusion.outcome in ("fused", "void")
    return fusion.payload_bytes > 0


def _exchanged(report: Report, fusion: FusionPart) -> str:
    noised = {
        "dp-all": " of the noised model",
        "dp-frozen": " of a head that was fitted with noise on the noised layers",
    }.get(report.privacy.mode, "")
    if fusion.kind == "outputs":
        images = "the" if fusion.reference_size is None else f"the {count(fusion.reference_size)}"
        return (
            f"Exchanged were class probabilities{noised}, one row for each of {images} public "
            "reference images, which have no labels. No image, no label and no layer left for it."
        )
    if fusion.kind == "private":
        whole = "that model" if noised else "the whole model of the party they came from"
        return (
            f"Exchanged were private layers{noised}, by each party's own consent ([fusion] "
            f"release_private in party.toml). With the shared layers they are {whole}, and "
            "whoever received them can keep it."
        )
    return ""


def _came_in(fusion: FusionPart) -> str:
    return f"They came from {listed(fusion.parties)}." if fusion.parties else ""


def _size(fusion: FusionPart) -> str:
    if fusion.payload_bytes is None:
        return "How much this party released for it was not measured." if _released(fusion) else ""
    if fusion.payload_bytes == 0:
        return "This party released nothing for it."
    return f"This party released {size(fusion.payload_bytes)} for it."


def _spent(report: Report, fusion: FusionPart) -> str:
    if fusion.epsilon:
        return (
            f"It was released with noise and spent ε = {upward(fusion.epsilon)} on its own, a "
            "part of the total."
        )
    if not _released(fusion):
        return ""
    if report.privacy.mode == "none":
        return (
            "No noise was added: nothing bounds what the others can learn from it about single "
            "training images."
        )
    if fusion.epsilon == 0 or report.privacy.mode == "dp-all":
        return "It spent no ε of its own: it follows from layers that were trained with noise."
    return "Its ε was not recorded."
