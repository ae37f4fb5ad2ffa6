"""Figures as people read them, and the sentences that say what a report means."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import NamedTuple

from splitfed.report.schema import Report, ScoreRow, TensorRow
from splitfed.types import ITEM_BYTES

NONE = "–"
"""Stands for a figure that was not measured."""

LABELS = {
    "local_only": "Trained alone",
    "partial": "Shared layers averaged",
    "federated": "Noised model itself",
    "without_privacy": "Shared layers, no privacy",
    "full": "All layers averaged",
    "outputs_only": "Outputs shared, no layers",
    "fused": "After fusion",
}
MEANINGS = {
    "local_only": "same model, same epochs, nothing shared",
    "partial": "shared layers averaged, private layers its own",
    "federated": "what the federation trains, without anybody's private fitting",
    "without_privacy": "reference: the same sharing without noise",
    "full": "reference: plain federated averaging of the whole model",
    "outputs_only": "reference: distilled from outputs only",
    "fused": "private layers joined at the end",
}
COMPARED = {"partial": "the federated model", "fused": "the fused model"}

DP_SGD = ("dp-frozen", "dp-all")
"""Modes whose own model is made beside the noised one; elsewhere they are the same."""
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def label(report: Report, key: str) -> str:
    """What a model of the comparison is called; the own model by the mode it was made in."""
    if key == "partial" and report.privacy.mode in DP_SGD:
        return "Personal model"
    return LABELS[key]


def meaning(report: Report, key: str) -> str:
    """How a model of the comparison was made, under the report's privacy mode."""
    mode = report.privacy.mode
    if key == "partial" and mode in DP_SGD:
        return (
            "begun with the noised shared layers, then fitted and fine-tuned at home without noise"
        )
    if key == "partial" and mode == "party-update":
        return "noised updates of the shared layers averaged, private layers its own"
    if key == "full" and mode != "none":
        return f"{MEANINGS[key]}, without noise"
    return MEANINGS[key]


def subject(report: Report, compared: str) -> str:
    """The model that a sentence speaks of."""
    if compared == "partial" and report.privacy.mode in DP_SGD:
        return "the personal model"
    return COMPARED[compared]


def percent(value: float | None, digits: int = 1) -> str:
    """0.947 -> '94.7 %'."""
    return NONE if value is None else f"{100 * value:.{digits}f} %"


def interval(row: ScoreRow | None) -> str:
    """The 95 % interval in percent, such as '93.4 to 95.7'."""
    if row is None or row.accuracy_low is None or row.accuracy_high is None:
        return NONE
    return f"{100 * row.accuracy_low:.1f} to {100 * row.accuracy_high:.1f}"


def points(value: float) -> str:
    """A difference of accuracies in percentage points: 0.021 -> '+2.1', -0.004 -> '−0.4'."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def number(value: float | None, digits: int = 3) -> str:
    """A plain figure with ``digits`` decimals."""
    return NONE if value is None else f"{value:.{digits}f}"


def exact(value: float | None, least: int = 2) -> str:
    """As it was given, with at least ``least`` decimals: 8.0 -> '8.00', 1.573 -> '1.573'."""
    if value is None:
        return NONE
    text = f"{value:.{least}f}"
    return text if float(text) == value else f"{value:.6g}"


def upward(value: float | None, digits: int = 2) -> str:
    """Rounded up, for what must not look smaller than it is: 2.981 -> '2.99'."""
    if value is None:
        return NONE
    # as decimal digits: in binary, 1.1 · 100 is above 110
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-digits), ROUND_CEILING))


def power(value: float | None, digits: int = 3) -> str:
    """As a power of ten, rounded up to ``digits`` digits: 1e-5 -> '10⁻⁵', 3e-6 -> '3 × 10⁻⁶'."""
    if not value:
        return NONE if value is None else "0"
    given = Decimal(repr(value))
    place = given.adjusted()
    front = given.scaleb(-place).quantize(Decimal(1).scaleb(1 - digits), ROUND_CEILING)
    if front == 10:
        front, place = Decimal(1), place + 1
    ten = "10" + str(place).translate(_SUPERSCRIPTS)
    return ten if front == 1 else f"{front.normalize():f} × {ten}"


def count(value: int | None) -> str:
    """1234567 -> '1,234,567'."""
    return NONE if value is None else f"{value:,}"


def size(value: float | None) -> str:
    """Bytes in a unit that fits: 76288 -> '74.5 KiB'."""
    if value is None:
        return NONE
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def seconds(value: float | None) -> str:
    """Seconds with as many digits as matter: '0.42 s', '38.1 s', '12 min 4 s', '3 h 20 min'."""
    if value is None:
        return NONE
    if value < 10:
        return f"{value:.2f} s"
    if value < 99.95:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shape(tensor: TensorRow) -> str:
    """'64 × 32 × 3 × 3', or 'scalar'."""
    return " × ".join(str(extent) for extent in tensor.shape) or "scalar"


def tensor_bytes(tensor: TensorRow) -> int | None:
    """Bytes of the values; None for a dtype without a wire form."""
    total = ITEM_BYTES.get(tensor.dtype)
    for extent in tensor.shape:
        total = None if total is None else total * extent
    return total


class Verdict(NamedTuple):
    """The answer in words: a headline and what it rests on."""

    kind: str  # "helped", "not-helped", "undecided" or "none": for colours, never alone
    headline: str
    reason: str


def verdict(report: Report) -> Verdict:
    """The verdict in plain words. Success and failure are told in the same tone."""
    found, evaluation = report.verdict, report.evaluation
    alone = evaluation.local_only
    other = None if found is None else getattr(evaluation, found.compared)
    if (
        found is None
        or alone is None
        or other is None
        or alone.accuracy is None
        or other.accuracy is None
    ):
        return Verdict("none", "There is no verdict", _no_verdict(report))
    gain = other.accuracy - alone.accuracy
    who = subject(report, found.compared)
    if abs(gain) < 0.0005:
        compared = f"{who} is right as often as the model trained alone"
    else:
        more = "more" if gain > 0 else "less"
        compared = (
            f"{who} is right {points(abs(gain)).lstrip('+')} percentage points {more} often "
            "than the model trained alone"
        )
    where = f"On {report.party}'s own {count(evaluation.test_size)} test images "
    bounds = f" (95 % interval of the difference: {points(found.low)} to {points(found.high)})"
    if found.answer == "helped":
        return Verdict("helped", "Federation helped you", f"{where}{compared}{bounds}.")
    if found.answer == "did not help":
        return Verdict("not-helped", "Federation did not help you", f"{where}{compared}{bounds}.")
    return Verdict(
        "undecided",
        "Undecided whether federation helped you",
        f"{where}{compared}{bounds}: too little to tell from chance with these images.",
    )


def _no_verdict(report: Report) -> str:
    evaluation = report.evaluation
    if evaluation.partial is None:
        return "No test images were evaluated."
    if evaluation.partial.accuracy is None:
        loss = number(evaluation.partial.loss, 4)
        losses = f"{subject(report, 'partial')}'s test loss is {loss}"
        if evaluation.local_only is not None:
            losses += f", that of the model trained alone {number(evaluation.local_only.loss, 4)}"
        return f"A regression has no accuracy to compare; {losses}."
    if evaluation.local_only is None:
        return (
            "The model trained alone was not measured, so there is nothing to compare with. "
            "Set [defence] acceptance = true in party.toml to train it alongside."
        )
    return "The two models were not compared on the same images."


def verdict_sentence(report: Report) -> str:
    """The verdict as one line for a terminal."""
    said = verdict(report)
    return f"{said.headline}. {said.reason}"


def ending(report: Report) -> str:
    """What the reader must know about how the run ended and which model was saved; "" when it
    ended as agreed and the federated one was."""
    return " ".join(text for text in (_ended(report), _saved(report)) if text)


def _saved(report: Report) -> str:
    if report.kept != "local_only":
        return ""
    return (
        "The model that was saved is the one trained alone: it was the better one on this party's "
        "own validation images, whatever the test images say."
    )


def _ended(report: Report) -> str:
    if report.outcome in ("budget", "excluded"):
        stopped = {
            "budget": "Privacy budget spent",
            "excluded": "Stopped, because this party's own updates were refused",
        }
        because = report.ended_because or ""
        told = [
            stopped[report.outcome],
            because[:1].upper() + because[1:],
            f"{len(report.history)} of {report.rounds} rounds took place; the model so far was "
            "fitted, measured and kept",
        ]
        return " ".join(f"{text}." for text in told if text)
    if report.outcome == "alone" or any(row.outcome == "alone" for row in report.history):
        alone = sum(row.outcome == "alone" for row in report.history)
        why = f": {report.ended_because}" if report.ended_because else ""
        return f"Finished alone{why}. {_rounds(alone)} trained without any exchange."
    if report.confirmed is False:
        return (
            "Not every peer has confirmed the last round. Run again later: nothing is trained, "
            "and peers get what they miss."
        )
    return ""


def _rounds(amount: int) -> str:
    return f"{amount} round was" if amount == 1 else f"{amount} rounds were"


def faults(report: Report) -> list[str]:
    """Faults as sentences; a quiet run has none."""
    found = report.faults
    told = []
    if found.reconnects:
        told.append(f"The connection broke and came back {_times(found.reconnects)}.")
    if found.resumes:
        told.append(
            f"An interrupted transfer went on where it had stopped {_times(found.resumes)}."
        )
    if found.void_rounds:
        told.append(
            f"{_rounds(found.void_rounds)} void: an update was refused, and everybody kept the "
            "shared layers of the round before."
        )
    return told


def _times(amount: int) -> str:
    return {1: "once", 2: "twice"}.get(amount, f"{amount} times")
