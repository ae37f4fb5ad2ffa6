from __future__ import annotations

import re
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest

from splitfed.report import figures, validate
from splitfed.report.page import combined_page, party_page, scale, time_slices
from splitfed.report.schema import validate_all
from tests.support.reports import history_row, sample_report, score_row, troubled_report

VOID_TAGS = {"meta", "br", "link", "img", "input", "hr", "col"}


class Reader(HTMLParser):
    """Text and attributes of a page; insists that every element is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []
        self.text = re.sub(r"\s+", " ", "".join(self.words))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID_TAGS:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def both() -> dict[str, Any]:
    return validate_all({"hospital-a": sample_report(), "hospital-b": troubled_report()})


@cache
def pages() -> dict[str, str]:
    return {
        "party": party_page(validate(sample_report())),
        "troubled": party_page(validate(troubled_report())),
        "combined": combined_page(both(), {"hospital-a": "hospital-a/report.html"}),
    }


@pytest.mark.parametrize("kind", ["party", "troubled", "combined"])
def test_a_page_is_whole_and_asks_nobody_for_anything(kind: str) -> None:
    page = pages()[kind]
    reader = Reader(page)
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(reader.tags)
    assert "//" not in page
    assert "@import" not in page
    for name, value in reader.attributes:
        if name in ("href", "src"):
            assert value.startswith("#") or value == "hospital-a/report.html"
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", page))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in reader.attributes


@pytest.mark.parametrize("kind", ["party", "troubled", "combined"])
def test_ids_on_a_page_are_unique_and_references_lead_somewhere(kind: str) -> None:
    page = pages()[kind]
    ids = [value for name, value in Reader(page).attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ids)
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)


def test_a_partys_page_tells_everything_the_report_holds() -> None:
    text = Reader(pages()["party"]).text
    report = sample_report()
    for expected in (
        "Federation helped you.", "94.5 %", "93.3 to 95.6", "not measured",
        "Training loss", "Validation accuracy", "Round by round", "KiB on the wire",
        "764.6 KiB", "735.0 KiB", "+4.0 %", "Where the time went", "24.6 s",
        "Left (shared): 4 tensors", "Stayed (private): 4 tensors", "conv2.weight",
        "64 × 32 × 3 × 3", "NO PRIVACY GUARANTEE", "None: no broken connection",
        report["contract"], report["model"]["factory"],
    ):  # fmt: skip
        assert expected in text, expected


def test_failure_and_faults_are_shown_as_plainly() -> None:
    text = Reader(pages()["troubled"]).text
    for expected in (
        "Federation did not help you.", "Finished alone", "void round",
        "trained alone, no exchange", "The connection broke and came back twice.",
        "‖update‖ = 312.4 exceeds max_update_norm = 9", "0 B",
    ):  # fmt: skip
        assert expected in text, expected


def test_the_combined_page_shows_every_party_and_links_only_where_a_page_is() -> None:
    reader = Reader(pages()["combined"])
    for expected in (
        "2 parties",
        "Federation helped you.",
        "Federation did not help you.",
        "Stayed at hospital-b (private)",
    ):
        assert expected in reader.text, expected
    assert [v for n, v in reader.attributes if n == "href" and not v.startswith("#")] == [
        "hospital-a/report.html"
    ]


def test_names_and_reasons_of_others_are_text_never_markup() -> None:
    evil = "<script>alert(1)</script>$x$&amp;"
    report = sample_report(evil, peers=[evil], classes=[evil], contract=evil)
    report["model"]["shared"][0]["name"] = evil
    report["faults"]["rejected"] = [{"round": 1, "peer": evil, "reason": evil}]
    report["privacy"]["sentence"] = evil
    report["ended_because"], report["outcome"] = evil, "alone"
    checked = validate(report)
    for page in (party_page(checked), combined_page({evil: checked, "b": checked}, {})):
        reader = Reader(page)
        assert "script" not in reader.tags
        assert reader.text.count(evil) >= 6


def test_a_page_without_a_single_figure_still_reads() -> None:
    nothing = dict.fromkeys(("local_only", "partial", "full", "outputs_only", "fused"))
    report = sample_report(
        history=[],
        evaluation={"test_size": None, **nothing},
        verdict=None,
        time=dict.fromkeys(sample_report()["time"]),
        traffic=dict.fromkeys(sample_report()["traffic"]),
        classes=[],
    )
    for page in (party_page(validate(report)), combined_page({"hospital-a": validate(report)}, {})):
        text = Reader(page).text
        assert "There is no verdict" in text
        assert "No round has a training loss" in text
        assert "None" not in text.replace("None: no broken connection", "")


def test_a_regression_has_losses_and_no_accuracy_axis() -> None:
    row = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "loss": 0.125}
    report = sample_report(verdict=None)
    report["evaluation"] |= {"local_only": row, "partial": row, "full": None}
    checked = validate(report)
    page = party_page(checked)
    assert scale({"a": checked}) is None
    assert 'class="forest"' not in page
    assert "0.125" in Reader(page).text


def test_privacy_figures_are_shown_when_there_is_privacy() -> None:
    report = sample_report()
    report["privacy"] |= {
        "mode": "dp-frozen",
        "unit": "patient",
        "epsilon": 2.98,
        "delta": 1e-5,
        "accountant": "prv",
        "steps": 400,
        "sentence": "A promise.",
    }
    text = Reader(party_page(validate(report))).text
    for expected in ("A promise.", "dp-frozen", "patient", "2.98", "1e-05", "prv"):
        assert expected in text


def test_long_lists_start_folded() -> None:
    assert "<details>" not in pages()["party"]
    report = sample_report(history=[history_row(i + 1) for i in range(40)], rounds=40)
    report["model"]["private"] = [
        {"name": f"layer{i}.weight", "shape": [3], "dtype": "float32"} for i in range(60)
    ]
    assert party_page(validate(report)).count("<details>") == 2


def test_equal_reports_give_equal_pages() -> None:
    assert pages.__wrapped__() == pages()


def test_plots_take_every_colour_from_the_page() -> None:
    reports = both()
    for plot in (figures.learning_curves(reports), figures.traffic(reports)):
        assert not re.search(r"#[0-9a-fA-F]{6}\b", plot)
        assert "var(--series-1)" in plot
        assert "xmlns" not in plot


def test_rounds_without_agreement_are_marked_in_the_curves() -> None:
    quiet = figures.learning_curves({"a": validate(sample_report())})
    troubled = figures.learning_curves({"a": validate(troubled_report())})
    assert "void round" not in quiet
    assert "void round" in troubled
    assert "trained alone, no exchange" in troubled


def test_the_local_branchs_accuracy_is_drawn_where_it_was_measured() -> None:
    rows = [history_row(i + 1, local_only_validation_accuracy=0.5 + i / 50) for i in range(5)]
    assert ">trained alone<" in figures.learning_curves(
        {"a": validate(sample_report(history=rows))}
    )
    assert ">trained alone<" not in figures.learning_curves({"a": validate(sample_report())})


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


def test_time_slices_fill_the_wall_time() -> None:
    slices = time_slices(validate(sample_report()))
    assert sum(piece.share for piece in slices) == pytest.approx(100)
    assert sum(piece.seconds for piece in slices) == pytest.approx(24.6)
    assert slices[-1].label == "Everything else"


def test_the_axis_holds_every_interval_between_round_ticks() -> None:
    report = sample_report()
    report["evaluation"]["fused"] = score_row(0.999)
    axis = scale({"a": validate(report)})
    assert axis is not None
    assert axis.low <= 0.912
    assert axis.high == 1.0
    assert 2 <= len(axis.ticks) <= 6
    assert all(0 <= axis.at(tick) <= 100 for tick in axis.ticks)
    for accuracy in (0.0, 1.0):
        alone = sample_report()
        alone["evaluation"] |= {
            key: score_row(accuracy, 0.0) for key in ("local_only", "partial", "full")
        }
        edge = scale({"a": validate(alone)})
        assert edge is not None
        assert edge.low < edge.high
