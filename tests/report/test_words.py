from __future__ import annotations

from typing import Any

import pytest

from splitfed.report import sentences, validate, verdict_sentence, words
from tests.support.reports import (
    budget_report,
    private_report,
    sample_report,
    score_row,
    troubled_report,
)


def told(low: float, high: float, answer: str, partial: float, alone: float = 0.924) -> str:
    report = sample_report()
    report["evaluation"] |= {"local_only": score_row(alone), "partial": score_row(partial)}
    report["verdict"] = {"answer": answer, "compared": "partial", "low": low, "high": high}
    return verdict_sentence(validate(report))


def test_numbers_are_told_as_ranges() -> None:
    assert words.spans([]) == ""
    assert words.spans([4]) == "4"
    assert words.spans([1, 3, 4, 5, 9, 10]) == "1, 3 to 5 and 9 to 10"


def test_help_is_told_with_its_size_and_interval() -> None:
    assert told(0.011, 0.032, "helped", 0.945) == (
        "Federation helped you. On hospital-a's own 1,500 test images the federated model is "
        "right 2.1 percentage points more often than the model trained alone (95 % interval of "
        "the difference: +1.1 to +3.2)."
    )


def test_harm_is_told_as_plainly_as_help() -> None:
    said = told(-0.034, -0.013, "did not help", 0.901)
    assert said.startswith("Federation did not help you. ")
    assert "right 2.3 percentage points less often" in said
    assert "−3.4 to −1.3" in said


def test_no_difference_at_all_is_no_help() -> None:
    said = told(0.0, 0.0, "did not help", 0.924)
    assert said.startswith("Federation did not help you. ")
    assert "is right as often as the model trained alone" in said
    assert "0.0 to 0.0" in said


def test_a_difference_that_may_be_chance_is_undecided() -> None:
    said = told(-0.004, 0.013, "undecided", 0.929)
    assert said.startswith("Undecided whether federation helped you. ")
    assert said.endswith("too little to tell from chance with these images.")


def without(**changes: Any) -> str:
    report = sample_report(verdict=None)
    report["evaluation"] |= changes
    return verdict_sentence(validate(report))


def test_without_the_model_trained_alone_there_is_no_verdict_and_a_way_to_get_one() -> None:
    said = without(local_only=None)
    assert said.startswith("There is no verdict. ")
    assert "[defence] acceptance = true" in said


def test_without_test_images_there_is_no_verdict() -> None:
    assert "No test images" in without(partial=None, local_only=None)


def test_a_regression_tells_its_losses_instead() -> None:
    row = {"accuracy": None, "accuracy_low": None, "accuracy_high": None}
    said = without(partial={**row, "loss": 0.25}, local_only={**row, "loss": 0.5})
    assert "A regression has no accuracy" in said
    assert "0.2500" in said
    assert "0.5000" in said


def test_a_fused_model_is_called_so() -> None:
    report = sample_report()
    report["evaluation"]["fused"] = score_row(0.95)
    report["verdict"]["compared"] = "fused"
    assert "the fused model is right 2.6 percentage points more" in verdict_sentence(
        validate(report)
    )


def test_a_run_that_ended_alone_says_why_and_for_how_long() -> None:
    said = sentences.ending(validate(troubled_report()))
    assert said == (
        "Finished alone: 3 rounds were void. 4 rounds were trained without any exchange."
    )


def test_a_run_that_the_budget_stopped_says_why_and_how_far_it_came() -> None:
    assert sentences.ending(validate(budget_report())) == (
        "Privacy budget spent. Round 7 was not begun: the privacy budget of data set chest-2024 is "
        "epsilon = 8 at delta = 1e-05; 7.7102 is spent, and this round would make it 8.1377. 6 of "
        "10 rounds took place; the model so far was fitted, measured and kept."
    )


def test_a_run_whose_own_updates_were_refused_says_so() -> None:
    said = sentences.ending(
        validate(sample_report(outcome="excluded", ended_because="it was long"))
    )
    assert said.startswith("Stopped, because this party's own updates were refused. It was long. ")


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_the_own_model_under_dp_sgd_is_called_personal_everywhere(mode: str) -> None:
    report = validate(private_report(mode=mode))
    assert words.label(report, "partial") == "Personal model"
    assert "fine-tuned at home without noise" in words.meaning(report, "partial")
    assert "the personal model is right 0.7 percentage points more" in verdict_sentence(report)


def test_the_own_model_under_party_update_is_an_average_of_noised_updates() -> None:
    report = validate(private_report(mode="party-update"))
    assert words.label(report, "partial") == "Shared layers averaged"
    assert words.meaning(report, "partial").startswith("noised updates of the shared layers")
    assert "the federated model is right" in verdict_sentence(report)


def test_without_privacy_the_models_mean_what_they_always_did() -> None:
    report = validate(sample_report())
    assert {key: words.meaning(report, key) for key in words.MEANINGS} == words.MEANINGS
    assert {key: words.label(report, key) for key in words.LABELS} == words.LABELS


def test_an_unconfirmed_run_says_what_to_do_and_a_finished_one_nothing() -> None:
    assert "Run again later" in sentences.ending(validate(sample_report(confirmed=False)))
    assert sentences.ending(validate(sample_report())) == ""
    assert sentences.ending(validate(sample_report(confirmed=None, outcome=None))) == ""


def test_faults_are_told_in_sentences_and_a_quiet_run_has_none() -> None:
    assert sentences.faults(validate(sample_report())) == []
    lines = sentences.faults(validate(troubled_report()))
    assert [line.split(" ")[-1] for line in lines[:2]] == ["twice.", "once."]
    assert lines[2].startswith("3 rounds were void")


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (words.percent(0.9467), "94.7 %"), (words.percent(None), "–"),
        (words.points(0.0213), "+2.1"), (words.points(-0.0213), "−2.1"),
        (words.points(0.0004), "0.0"), (words.points(-0.0004), "0.0"),
        (words.size(0), "0 B"), (words.size(1023), "1023 B"), (words.size(76_288), "74.5 KiB"),
        (words.size(5 * 2**30), "5.0 GiB"), (words.size(3 * 2**40), "3072.0 GiB"),
        (words.size(None), "–"),
        (words.seconds(0.416), "0.42 s"), (words.seconds(38.14), "38.1 s"),
        (words.seconds(99.96), "1 min 40 s"), (words.seconds(724.4), "12 min 4 s"),
        (words.seconds(12_000), "3 h 20 min"), (words.seconds(None), "–"),
        (words.count(1_234_567), "1,234,567"), (words.number(0.18349), "0.183"),
        (words.interval(None), "–"),
        (words.upward(2.981), "2.99"), (words.upward(1.1), "1.10"), (words.upward(8.0), "8.00"),
        (words.upward(7.999973), "8.00"), (words.upward(0.0), "0.00"), (words.upward(None), "–"),
        (words.power(1e-5), "10⁻⁵"), (words.power(3e-6), "3 × 10⁻⁶"),
        (words.power(9.999e-4, 2), "10⁻³"), (words.power(1.2345e-7), "1.24 × 10⁻⁷"),
        (words.power(0.0), "0"), (words.power(None), "–"),
        (words.exact(8.0), "8.00"), (words.exact(1.573), "1.573"), (words.exact(1.0, 0), "1"),
        (words.exact(1 / 3, 0), "0.333333"), (words.exact(None), "–"),
    ],
)  # fmt: skip
def test_figures_are_written_as_people_read_them(given: str, read: str) -> None:
    assert given == read


def test_shapes_and_bytes_of_tensors() -> None:
    kernel = validate(sample_report()).model.shared[3]
    assert words.shape(kernel) == "64 × 32 × 3 × 3"
    assert words.tensor_bytes(kernel) == 64 * 32 * 9 * 4


def test_which_model_was_saved_is_said_where_it_is_not_the_federated_one() -> None:
    saved = sentences.ending(validate(sample_report(kept="local_only")))
    assert saved.startswith("The model that was saved is the one trained alone")
    assert sentences.ending(validate(sample_report(kept="partial"))) == ""
