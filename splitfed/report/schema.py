"""The keys of report.json, as frozen structs.

Their names and meanings stay; others may be added beside them. A figure that was not
measured is None (``null``), never zero and never made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from splitfed.errors import Defect
from splitfed.report.rows import FusionPart, Part, ScoreRow

SETUPS = (
    "local_only", "partial", "federated", "without_privacy", "full", "outputs_only", "fused",
)  # fmt: skip
"""The models a report can compare, in the order they are shown."""


class TensorRow(Part, frozen=True, kw_only=True):
    """One tensor of the model."""

    name: str
    shape: list[int]
    dtype: str


class ModelPart(Part, frozen=True, kw_only=True):
    """Which tensors travelled and which stayed."""

    factory: str
    shared: list[TensorRow]
    private: list[TensorRow]
    shared_parameters: int
    private_parameters: int


class EvaluationPart(Part, frozen=True, kw_only=True):
    """Every model that was measured on ``test_size`` images, the same for all."""

    test_size: int | None
    local_only: ScoreRow | None
    partial: ScoreRow | None
    full: ScoreRow | None
    outputs_only: ScoreRow | None
    fused: ScoreRow | None
    federated: ScoreRow | None = None
    without_privacy: ScoreRow | None = None


class VerdictPart(Part, frozen=True, kw_only=True):
    """Whether federation helped; ``low`` and ``high`` bound accuracy(compared) -
    accuracy(local_only) at 95 % by the paired bootstrap."""

    answer: Literal["helped", "did not help", "undecided"]
    compared: Literal["fused", "partial"]
    low: float
    high: float


class HistoryRow(Part, frozen=True, kw_only=True):
    """One closed round; "missed": the others closed it, and this party took over the outcome."""

    round: int
    outcome: Literal["agreed", "void", "alone", "missed"]
    train_loss: float | None
    validation_accuracy: float | None
    train_s: float | None
    exchange_s: float | None
    wait_s: float | None
    bytes_sent: int | None
    bytes_received: int | None
    epsilon: float | None
    local_only_validation_accuracy: float | None = None


class TrafficPart(Part, frozen=True, kw_only=True):
    """Bytes of the whole run; wire = as counted on the socket."""

    payload_bytes_sent: int | None
    wire_bytes_sent: int | None
    payload_bytes_received: int | None
    wire_bytes_received: int | None


class TimePart(Part, frozen=True, kw_only=True):
    """Where the seconds went."""

    wall_s: float | None
    start_s: float | None
    train_s: float | None
    baseline_s: float | None
    exchange_s: float | None
    wait_s: float | None
    evaluate_s: float | None


class AccountPart(Part, frozen=True, kw_only=True):
    """Where the privacy account of the data set stands after this run."""

    data_id: str
    delta: float
    spent_epsilon: float | None
    budget_epsilon: float | None
    releases: int
    runs: int
    units: list[str] = msgspec.field(default_factory=list)


class PrivacyPart(Part, frozen=True, kw_only=True):
    """What is promised about the training images, and the sentence that says so."""

    mode: str
    unit: str | None
    epsilon: float | None
    delta: float | None
    noise_multiplier: float | None
    max_grad_norm: float | None
    sample_rate: float | None
    steps: int | None
    accountant: str | None
    sentence: str
    epsilon_rdp: float | None = None
    released_epsilon: float | None = None
    account: AccountPart | None = None


class Rejection(Part, frozen=True, kw_only=True):
    """An update or a vote that was refused, whose it was, and why."""

    round: int
    peer: str
    reason: str


class Alarm(Part, frozen=True, kw_only=True):
    """A judgement that taking part costs accuracy: after which round's merge, with whom, why, and
    what it rests on. It never says who is to blame."""

    round: int
    peer: str
    reason: str
    evidence: dict[str, Any]


class ViewPart(Part, frozen=True, kw_only=True):
    """From which round on ``members`` voted, and who of the parties was left out then."""

    view: int
    round: int
    members: list[str]
    left_out: list[str]


class QuarantinePart(Part, frozen=True, kw_only=True):
    """A peer that broke the rules and takes no part in the run any more, and why."""

    peer: str
    reason: str


class FaultsPart(Part, frozen=True, kw_only=True):
    """What went wrong on the way. ``views``: each change of who votes, in order."""

    reconnects: int
    resumes: int
    void_rounds: int
    rejected: list[Rejection]
    alarms: list[Alarm] = msgspec.field(default_factory=list)
    views: list[ViewPart] = msgspec.field(default_factory=list)
    quarantined: list[QuarantinePart] = msgspec.field(default_factory=list)


class Report(Part, frozen=True, kw_only=True):
    """report.json of one party."""

    schema: Literal[1]
    party: str
    peers: list[str]
    rounds: int
    contract: str
    classes: list[str]
    seed: int
    model: ModelPart
    evaluation: EvaluationPart
    verdict: VerdictPart | None
    history: list[HistoryRow]
    traffic: TrafficPart
    time: TimePart
    privacy: PrivacyPart
    faults: FaultsPart
    outcome: str | None = None
    confirmed: bool | None = None
    ended_because: str | None = None
    kept: str | None = None
    fusion: FusionPart | None = None


def clean(value: Any) -> Any:
    """``value`` as JSON can hold it: tuples become lists, numbers that are not finite None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): clean(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [clean(entry) for entry in value]
    return value


def validate(report: Mapping[str, Any]) -> Report:
    """The report as structs, every key and type checked.

    Raises:
        Defect: a key is missing or of another type; names it.
    """
    try:
        return msgspec.convert(clean(report), Report)
    except msgspec.ValidationError as error:
        raise Defect(f"report.json: {error}") from error


def validate_all(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Report]:
    """The reports of several parties, by name in order.

    Raises:
        Defect: as :func:`validate`, none at all, or a report under another party's name.
    """
    if not reports:
        raise Defect("there is no report to combine")
    checked = {name: validate(reports[name]) for name in sorted(reports)}
    for name, report in checked.items():
        if report.party != name:
            raise Defect(f"the report of {report.party} stands under the name {name}")
    return checked


def combine(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What ``demo`` writes: ``{"parties": {name: report}}``, names in order.

    Raises:
        Defect: as :func:`validate_all`.
    """
    validate_all(reports)
    return {"parties": {name: clean(reports[name]) for name in sorted(reports)}}
