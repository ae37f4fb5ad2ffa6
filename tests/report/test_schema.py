from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import torch

from splitfed.errors import Defect
from splitfed.evaluation import Predictions, score
from splitfed.report import combine, validate
from tests.support.reports import (
    away_report,
    full_row,
    fused_report,
    fusion_part,
    history_row,
    sample_report,
    score_row,
    troubled_report,
    unhelped_report,
)


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


@pytest.mark.parametrize(
    "report",
    [sample_report(), troubled_report(), fused_report(), unhelped_report(), away_report()],
)
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


def test_reports_from_before_there_were_views_have_none() -> None:
    found = validate(sample_report()).faults
    assert (found.views, found.quarantined) == ([], [])


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


def test_a_report_from_before_fusion_and_metrics_is_still_a_report() -> None:
    report = sample_report()
    report["evaluation"] |= {key: score_row(0.9) for key in ("local_only", "partial", "full")}
    assert not {"fusion", "kept"} & set(report)
    checked = validate(report)
    assert checked.fusion is checked.kept is None
    assert checked.evaluation.partial is not None
    for key in ("balanced_accuracy", "auroc", "calibration_error", "per_class", "confusion"):
        assert getattr(checked.evaluation.partial, key) is None


def one_class(**changes: Any) -> list[dict[str, Any]]:
    return [{"class": 0, "images": 5, "recall": 0.2, "precision": None, **changes}]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"balanced_accuracy": 1.01}, r"balanced_accuracy 1\.01 is not within"),
        ({"auroc": -0.1}, "auroc"),
        ({"calibration_error": 2.0}, "calibration_error"),
        ({"per_class": one_class(recall=1.5)}, "recall 1.5"),
        ({"per_class": one_class(precision=-1.0)}, "precision -1.0"),
        ({"per_class": one_class(images=-1)}, "images -1 is below 0"),
        ({"per_class": one_class(**{"class": 1})}, "in order"),
        ({"confusion": [[1, 2], [3]]}, "confusion is not 2 x 2"),
        ({"confusion": [[1, -2], [3, 4]]}, "confusion -2"),
        ({"confusion": [[1, 2.5], [3, 4]]}, "Expected `int`"),
        ({"per_class": one_class(), "confusion": [[1, 2], [3, 4]]}, "confusion is not 1 x 1"),
        ({"per_class": one_class(), "confusion": [[6]]}, "more images of class 0"),
    ],
)
def test_a_metric_out_of_its_range_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(Defect, match=match):
        validate(changed("evaluation.partial", {**score_row(0.9), **changes}))


@pytest.mark.parametrize("broken", [False, True])
def test_what_evaluation_measures_is_what_a_report_takes(broken: bool) -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.6, 0.4]], dtype=torch.float64)
    if broken:
        probabilities[0] = math.nan
    labels = torch.tensor([0, 1, 1])
    row = score(
        Predictions(probabilities=probabilities, values=None, labels=labels, loss=None)
    ).row()
    checked = validate(changed("evaluation.partial", row)).evaluation.partial
    assert msgspec.to_builtins(checked) == row


def test_images_without_an_answer_are_in_no_column_of_the_matrix() -> None:
    row = {**full_row(0.9, [5, 5]), "confusion": [[4, 0], [0, 0]]}
    checked = validate(changed("evaluation.partial", row)).evaluation.partial
    assert checked is not None
    assert checked.confusion == row["confusion"]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"method": "vote"}, r"\$\.fusion\.method"),
        ({"outcome": "lost"}, r"\$\.fusion\.outcome"),
        ({"kind": "images"}, r"\$\.fusion\.kind"),
        ({"reference_size": -1}, "reference_size -1"),
        ({"payload_bytes": -1}, "payload_bytes -1"),
        ({"epsilon": -0.1}, "epsilon -0.1"),
        ({"validation": {"local_only": 1.2, "partial": None, "fused": None}}, "local_only 1.2"),
        ({"validation": {"local_only": 0.9, "partial": None}}, "missing required field `fused`"),
    ],
)
def test_a_fusion_out_of_its_range_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(Defect, match=match):
        validate(sample_report(fusion=fusion_part(**changes)))


def test_a_run_without_fusion_says_so_in_as_many_words() -> None:
    nothing = dict.fromkeys(
        ("kind", "reference_size", "payload_bytes", "epsilon", "kept", "validation")
    )
    part = {"method": "none", "outcome": "none", "parties": [], **nothing}
    assert msgspec.to_builtins(validate(sample_report(fusion=part)).fusion) == part


@pytest.mark.parametrize("key", list(fusion_part()))
def test_every_key_of_a_fusion_is_required_by_name(key: str) -> None:
    part = fusion_part()
    del part[key]
    with pytest.raises(Defect, match=f"missing required field `{key}`"):
        validate(sample_report(fusion=part))


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
