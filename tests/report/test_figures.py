from __future__ import annotations

import re

from splitfed.report import figures, validate
from splitfed.report.schema import validate_all
from tests.support.reports import (
    away_report,
    both,
    budget_report,
    history_row,
    private_report,
    privately,
    sample_report,
    troubled_report,
)


def test_plots_take_every_colour_from_the_page() -> None:
    reports = validate_all(both())
    for plot in (
        figures.learning_curves(reports),
        figures.traffic(reports),
        figures.privacy_spent(validate_all(privately())),
    ):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", plot)
        assert "var(--series-1)" in plot
        assert "xmlns" not in plot


def test_rounds_without_agreement_are_marked_in_the_curves() -> None:
    quiet = figures.learning_curves({"a": validate(sample_report())})
    troubled = figures.learning_curves({"a": validate(troubled_report())})
    assert "void round" not in quiet
    assert "void round" in troubled
    assert "trained alone, no exchange" in troubled
    assert "missed" not in troubled


def test_a_missed_round_has_a_mark_and_no_figure() -> None:
    away = {"a": validate(away_report())}
    assert "missed, the others went on" in figures.learning_curves(away)
    assert figures.traffic(away)
    for row in away["a"].history:
        assert row.outcome != "missed" or row.train_loss is None


def test_the_local_branchs_accuracy_is_drawn_where_it_was_measured() -> None:
    rows = [history_row(i + 1, local_only_validation_accuracy=0.5 + i / 50) for i in range(5)]
    assert ">trained alone<" in figures.learning_curves(
        {"a": validate(sample_report(history=rows))}
    )
    assert ">trained alone<" not in figures.learning_curves({"a": validate(sample_report())})


def test_the_noised_models_accuracy_is_not_called_the_own_models() -> None:
    private = figures.learning_curves({"a": validate(private_report())})
    assert "Validation accuracy of the noised model, %" in private
    assert "noised" not in figures.learning_curves({"a": validate(sample_report())})


def test_epsilon_is_drawn_with_its_planned_total_and_its_budget() -> None:
    plot = figures.privacy_spent({"hospital-a": validate(private_report())})
    for told in ("spent by this run", "planned total: 8.00", "budget: 10.00", "δ = 10⁻⁵"):
        assert told in plot, told


def test_a_budget_that_is_the_planned_total_is_one_line_and_other_runs_are_marked() -> None:
    plot = figures.privacy_spent({"hospital-a": validate(budget_report())})
    for told in (">planned total, and budget: 8.00<", ">all runs on the data: 7.72<"):
        assert told in plot, told
    assert ">budget: 8.00<" not in plot


def test_parties_that_spend_alike_share_a_line_and_others_do_not() -> None:
    alike = figures.privacy_spent(validate_all(privately()))
    assert ">every party<" in alike
    assert ">all runs on the data of hospital-a: 7.72<" in alike
    assert ">budget of hospital-b: 10.00<" in alike
    other = validate_all(privately()) | {"c": validate(private_report("c", rounds=8))}
    apart = figures.privacy_spent(other)
    assert ">hospital-a, hospital-b<" in apart
    assert ">c<" in apart


def test_figures_at_another_delta_are_not_compared_in_silence() -> None:
    report = budget_report()
    report["privacy"]["account"]["delta"] = 1e-6
    plot = figures.privacy_spent({"hospital-a": validate(report)})
    assert ">budget: 8.00 at δ = 10⁻⁶<" in plot
    assert "all runs on the data" not in plot


def test_there_is_no_plot_of_epsilon_without_privacy_or_before_the_first_round() -> None:
    rows = [history_row(1, epsilon=1.0)]
    assert figures.privacy_spent({"a": validate(sample_report(history=rows))}) == ""
    assert figures.privacy_spent({"a": validate(private_report(rounds=0))}) == ""


def test_more_parties_than_colours_can_be_told_apart() -> None:
    reports = {f"p{i}": validate(sample_report(f"p{i}")) for i in range(8)}
    plot = figures.learning_curves(reports)
    assert "stroke-dasharray" in plot
    assert all(f">p{i}<" in plot for i in range(8))


def test_a_name_in_a_plot_is_text_not_a_formula() -> None:
    names = ("$x^2$", "<b>")
    plot = figures.learning_curves({name: validate(sample_report(name)) for name in names})
    assert ">$x^2$<" in plot
    assert ">&lt;b&gt;<" in plot


def test_nothing_to_plot_is_no_plot() -> None:
    row = history_row(1, train_loss=None, validation_accuracy=None, bytes_sent=0, bytes_received=0)
    reports = {"a": validate(sample_report(history=[row]))}
    assert figures.learning_curves(reports) == figures.traffic(reports) == ""


def test_what_was_sent_in_all_counts_the_rounds_before_a_restart() -> None:
    """The counters in `traffic` are those of the last process."""
    from splitfed.report.page import sent_in_all

    report = sample_report(rounds=10)
    last = {**report["traffic"], "wire_bytes_sent": 78_000}
    restarted = validate({**report, "traffic": last})
    assert sent_in_all(restarted) == sum(row["bytes_sent"] for row in report["history"])
    assert sent_in_all(validate({**report, "history": []})) == 783_001
