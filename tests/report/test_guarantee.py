from __future__ import annotations

from typing import Any

import pytest

from splitfed.report import guarantee, validate
from splitfed.report.schema import validate_all
from tests.support.reports import budget_report, private_report, sample_report, score_row


def privacy(mode: str = "dp-frozen", **changes: Any) -> Any:
    report = private_report(mode=mode)
    report["privacy"] |= changes
    return validate(report).privacy


def account(outcome: str = "done", **changes: Any) -> guarantee.Standing:
    report = private_report(outcome=outcome)
    report["privacy"]["account"] |= changes
    return guarantee.standing(validate(report))


def test_plain_words_name_the_unit_the_factor_and_what_remains() -> None:
    assert guarantee.plain_words(privacy()) == (
        "In plain words: leave any one record out of the training, and the chance of whatever the "
        "others conclude from all messages changes by a factor of at most e^ε = 2,981, but for a "
        "remainder of at most δ = 10⁻⁵. The nearer the factor is to 1, the less can be learnt "
        "about that record."
    )
    assert "all images of any one patient" in guarantee.plain_words(privacy(unit="patient"))
    assert "any other data set" in guarantee.plain_words(privacy("party-update"))


@pytest.mark.parametrize(
    ("epsilon", "factor"),
    [(0.0, "1.0"), (0.1, "1.2"), (1.0, "2.8"), (3.0, "21"), (8.0, "2,981"), (20.0, "4.9 × 10⁸")],
)
def test_the_factor_is_never_rounded_down(epsilon: float, factor: str) -> None:
    assert guarantee.factor(epsilon) == factor


def test_epsilon_is_never_shown_smaller_than_it_is() -> None:
    rows = guarantee.table({"a": validate(private_report(mode="party-update"))}).rows
    assert "2.13 (RDP 2.30)" in [row.values[0] for row in rows]  # 2.1241, and 2.2961 as a check


def test_equal_parties_share_a_column_and_others_have_their_own() -> None:
    same = {name: private_report(name) for name in ("a", "b")}
    assert guarantee.table(validate_all(same)).columns == ("",)
    apart = guarantee.table(validate_all(same | {"c": private_report("c", rounds=6)}))
    assert apart.columns == ("a, b", "c")
    released = next(row for row in apart.rows if row.label == "ε released so far")
    assert released.values == ("8.00", "6.10")


def test_without_privacy_there_is_no_figure_and_no_account() -> None:
    report = validate(sample_report())
    assert guarantee.table({"hospital-a": report}).rows == ()
    assert guarantee.standing(report).sentence == guarantee.cost(report) == ""
    assert guarantee.promises({"hospital-a": report}) == [("", report.privacy.sentence, "")]


def test_promises_that_differ_name_their_parties() -> None:
    reports = {"a": private_report("a"), "b": sample_report("b"), "c": private_report("c")}
    found = guarantee.promises(validate_all(reports))
    assert [names for names, *_ in found] == ["a, c", "b"]


def test_an_account_tells_what_is_spent_of_what_by_whom() -> None:
    found = account()
    assert found.sentence == (
        "Account of data set chest-2024: ε = 8.00 of a budget of 10.00 is spent at δ = 10⁻⁵, by "
        "10 releases of 1 run."
    )
    assert found.warnings == ()


def test_an_account_without_a_budget_says_that_nothing_stops_it() -> None:
    found = account(budget_epsilon=None, spent_epsilon=30.0)
    assert found.sentence.endswith("; no budget is set ([data] budget_epsilon in party.toml).")
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("spent", "warning"),
    [(8.99, ""), (9.0, "nearly spent (90 %)"), (9.96, "too little for another"), (None, "too")],
)
def test_a_budget_that_runs_out_is_warned_of(spent: float | None, warning: str) -> None:
    warnings = account(spent_epsilon=spent).warnings
    assert warning in warnings[0] if warning else warnings == ()


def test_a_run_that_the_budget_stopped_is_warned_of_whatever_is_left() -> None:
    assert "too little for another" in account("budget", spent_epsilon=5.0).warnings[0]
    assert "too little for another" in guarantee.standing(validate(budget_report())).warnings[0]


def test_runs_that_protected_different_things_are_warned_of() -> None:
    warning = account(units=["patient", "record"]).warnings[0]
    assert warning.startswith("The runs protected different things: each patient and each record.")


def test_spending_beyond_any_figure_is_not_shown_as_a_dash() -> None:
    sentence = account(spent_epsilon=None).sentence
    assert "more than an ε that would mean anything" in sentence
    assert "–" not in sentence


def test_a_simulation_has_no_account() -> None:
    report = private_report()
    report["privacy"]["account"] = None
    assert "No account was kept" in guarantee.standing(validate(report)).sentence


def priced(**changes: Any) -> str:
    report = private_report()
    report["evaluation"] |= changes
    return guarantee.cost(validate(report))


def test_the_price_of_privacy_claims_nothing_beyond_the_verdict() -> None:
    assert priced() == (
        "What privacy cost: the personal model is right on 93.1 % of the test images. That is "
        "−1.4 percentage points against the same sharing without privacy (94.5 %; not tested for "
        "chance) and +0.7 percentage points against the model trained alone (92.4 %; undecided, "
        "says the verdict)."
    )


def test_the_price_of_privacy_compares_with_what_was_measured() -> None:
    assert "without privacy" not in priced(without_privacy=None)
    assert "trained alone" not in priced(local_only=None)
    assert priced(without_privacy=None, local_only=None) == priced(partial=None) == ""
    regression = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "loss": 0.1}
    assert priced(partial=regression) == ""


def test_a_verdict_on_another_model_is_not_lent_to_this_one() -> None:
    report = private_report()
    report["evaluation"]["fused"] = score_row(0.99)
    report["verdict"] |= {"compared": "fused", "answer": "helped"}
    said = guarantee.cost(validate(report))
    assert "says the verdict" not in said
    assert said.count("not tested for chance") == 2
