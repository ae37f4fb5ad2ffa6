"""Names of the models, and figures as people read them."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_CEILING, Decimal

from splitfed.report.rows import FusionPart, ScoreRow
from splitfed.report.schema import Report, TensorRow
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
    "outputs_only": "reference: local models, nothing shared but outputs",
    "fused": "private layers joined at the end",
}
FUSED = {
    "none": "no fusion was agreed",
    "distill": "own model after learning from all parties' averaged outputs on the reference "
    "images",
    "average": "private layers of all parties matched and averaged",
    "ensemble": "predictions of all parties' models averaged",
}
"""What the fused model is, by the method of fusion."""
SUBJECTS = {
    "local_only": "the model trained alone",
    "partial": "the federated model",
    "fused": "the fused model",
}

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
    if key in ("full", "outputs_only") and mode != "none":
        return f"{MEANINGS[key]}, without noise"
    if key == "fused" and report.fusion is not None:
        return _fused(report, report.fusion)
    return MEANINGS[key]


def _fused(report: Report, fusion: FusionPart) -> str:
    told = FUSED[fusion.method]
    if report.privacy.mode in DP_SGD:
        told = told.replace("own model", "personal model")
    return f"{told}, released with noise" if fusion.epsilon else told


def subject(report: Report, key: str) -> str:
    """The model that a sentence speaks of; a name it does not know is left as it is."""
    if key == "partial" and report.privacy.mode in DP_SGD:
        return "the personal model"
    return SUBJECTS.get(key, key)


def kept(report: Report) -> str | None:
    """The model that the party saved; None where the report does not say."""
    return report.kept or (report.fusion.kept if report.fusion else None)


def class_name(report: Report, index: int) -> str:
    """The class as the agreement calls it; its number where the agreement has no such class."""
    return report.classes[index] if index < len(report.classes) else f"class {index}"


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


def listed(names: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def spans(numbers: Sequence[int]) -> str:
    """Numbers in rising order as ranges: [4, 5, 6, 9] -> '4 to 6 and 9'."""
    found: list[list[int]] = []
    for value in numbers:
        if found and value == found[-1][-1] + 1:
            found[-1][1:] = [value]
        else:
            found.append([value])
    return listed([" to ".join(map(str, ends)) for ends in found])


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
