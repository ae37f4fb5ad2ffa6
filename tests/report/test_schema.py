from __future__ import annotations

import math
from typing import Any

import pytest

from splitfed.errors import Defect
from splitfed.report import combine, validate
from tests.support.reports import history_row, sample_report, score_row, troubled_report


def changed(path: str, value: Any) -> dict[str, Any]:
    """A sample report with the value at a dotted path replaced, or removed for ``...``."""
    report = sample_report()
    part: Any = report
    *parents, last = path.split(".")
    for key in parents:
        part = part[int(key)] if isinstance(part, list) else part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    return report


@pytest.mark.parametrize("report", [sample_report(), troubled_report()])
def test_what_a_run_writes_is_a_report(report: dict[str, Any]) -> None:
    checked = validate(report)
    assert checked.party == report["party"]
    assert [row.outcome for row in checked.history] == [r["outcome"] for r in report["history"]]


@pytest.mark.parametrize(
    "path",
    [
        "schema", "party", "peers", "rounds", "contract", "classes", "seed", "model",
        "model.factory", "model.shared", "model.private", "model.shared_parameters",
        "model.private_parameters", "evaluation", "evaluation.test_size",
        "evaluation.local_only", "evaluation.partial", "evaluation.full",
        "evaluation.outputs_only", "evaluation.fused", "evaluation.partial.accuracy",
        "evaluation.partial.accuracy_low", "evaluation.partial.accuracy_high",
        "evaluation.partial.loss", "verdict", "verdict.answer", "verdict.compared",
        "verdict.low", "verdict.high", "history", "traffic", "traffic.payload_bytes_sent",
        "traffic.wire_bytes_sent", "traffic.payload_bytes_received",
        "traffic.wire_bytes_received", "time", "time.wall_s", "time.start_s", "time.train_s",
        "time.baseline_s", "time.exchange_s", "time.wait_s", "time.evaluate_s", "privacy",
        "privacy.mode", "privacy.unit", "privacy.epsilon", "privacy.delta",
        "privacy.noise_multiplier", "privacy.max_grad_norm", "privacy.sample_rate",
        "privacy.steps", "privacy.accountant", "privacy.sentence", "faults",
        "faults.reconnects", "faults.resumes", "faults.void_rounds", "faults.rejected",
        *(f"history.0.{key}" for key in (
            "round", "outcome", "train_loss", "validation_accuracy", "train_s", "exchange_s",
            "wait_s", "bytes_sent", "bytes_received", "epsilon")),
    ],
)  # fmt: skip
def test_every_promised_key_is_required_by_name(path: str) -> None:
    with pytest.raises(Defect, match=f"missing required field `{path.split('.')[-1]}`"):
        validate(changed(path, ...))


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("rounds", "ten", r"Expected `int`, got `str` - at `\$\.rounds`"),
        ("schema", 2, "schema"),
        ("verdict.answer", "helped a lot", r"\$\.verdict\.answer"),
        ("history.3.outcome", "lost", r"\$\.history\[(3|\.\.\.)\]\.outcome"),
        ("evaluation.full", {"accuracy": 0.9}, r"\$\.evaluation\.full"),
        ("privacy.sentence", None, r"\$\.privacy\.sentence"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(path: str, value: Any, match: str) -> None:
    with pytest.raises(Defect, match=match):
        validate(changed(path, value))


@pytest.mark.parametrize(
    "row",
    [
        {**score_row(0.9), "accuracy_low": 0.95},
        {**score_row(0.9), "accuracy_high": 1.2},
        {**score_row(0.9), "accuracy_low": None},
        {**score_row(0.9), "accuracy": None},
    ],
)
def test_an_accuracy_outside_its_interval_is_refused(row: dict[str, Any]) -> None:
    with pytest.raises(Defect, match="evaluation.partial"):
        validate(changed("evaluation.partial", row))


def test_what_was_not_measured_is_none() -> None:
    row = history_row(1, train_loss=None, validation_accuracy=None, wait_s=None, bytes_sent=None)
    nothing = dict.fromkeys(("local_only", "partial", "full", "outputs_only", "fused"))
    report = sample_report(
        history=[row],
        evaluation={"test_size": None, **nothing},
        verdict=None,
        time=dict.fromkeys(sample_report()["time"]),
        traffic=dict.fromkeys(sample_report()["traffic"]),
    )
    assert validate(report).evaluation.partial is None


def test_numbers_that_are_not_finite_count_as_not_measured() -> None:
    checked = validate(changed("history.0.train_loss", math.nan))
    assert checked.history[0].train_loss is None


def test_a_demo_combines_reports_under_their_partys_names_in_order() -> None:
    one, two = sample_report("hospital-a"), sample_report("hospital-b")
    combined = combine({"hospital-b": two, "hospital-a": one})
    assert list(combined) == ["parties"]
    assert list(combined["parties"]) == ["hospital-a", "hospital-b"]
    assert combined["parties"]["hospital-a"] == one


def test_a_report_under_another_partys_name_is_refused() -> None:
    with pytest.raises(Defect, match="hospital-a stands under the name hospital-b"):
        combine({"hospital-b": sample_report("hospital-a")})
    with pytest.raises(Defect, match="no report"):
        combine({})
