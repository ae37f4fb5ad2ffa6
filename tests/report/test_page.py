from __future__ import annotations

import re
from functools import cache

import pytest

from splitfed.report import validate
from splitfed.report.page import combined_page, models, party_page, scale, time_slices
from splitfed.report.schema import validate_all
from splitfed.report.sentences import faults
from tests.report.reading import Reader
from tests.support.reports import (
    away_report,
    both,
    budget_report,
    fused_both,
    fused_report,
    fusion_part,
    history_row,
    private_report,
    privately,
    sample_report,
    score_row,
    troubled_report,
    unhelped_report,
)


@cache
def pages() -> dict[str, str]:
    return {
        "party": party_page(validate(sample_report())),
        "troubled": party_page(validate(troubled_report())),
        "combined": combined_page(validate_all(both()), {"hospital-a": "hospital-a/report.html"}),
        "private": party_page(validate(private_report())),
        "update": party_page(validate(private_report(mode="party-update"))),
        "budget": party_page(validate(budget_report())),
        "fused": party_page(validate(fused_report())),
        "unhelped": party_page(validate(unhelped_report())),
        "fused-combined": combined_page(validate_all(fused_both()), {}),
        "private-combined": combined_page(validate_all(privately()), {}),
        "away": party_page(validate(away_report())),
    }


KINDS = [
    "party", "troubled", "combined", "private", "update", "budget", "fused", "unhelped",
    "fused-combined", "private-combined", "away",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
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


@pytest.mark.parametrize("kind", KINDS)
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


def test_who_was_away_who_voted_and_who_was_shut_out_are_told() -> None:
    text = Reader(pages()["away"]).text
    for expected in (
        "This party missed 4 rounds, from round 4 on (rounds 4 to 6 and 9): while it was away the "
        "others went on",
        "Who takes part changed twice; since round 7 it is hospital-a, hospital-b and hospital-c, "
        "and not hospital-d.",
        "missed, the others went on", "Shut out for the rest of the run", "signed two updates",
        "Who votes", "hospital-a, hospital-b, hospital-c",
    ):  # fmt: skip
        assert expected in text, expected
    assert "None: no broken connection" not in text


def test_a_missed_round_has_no_times_and_no_bytes() -> None:
    assert "4missed––––––– 5missed" in Reader(pages()["away"]).text  # cells, without their borders


@pytest.mark.parametrize("key", ["views", "quarantined"])
def test_whatever_is_told_of_the_others_a_page_does_not_say_that_there_was_nothing(
    key: str,
) -> None:
    report = sample_report()
    report["faults"] |= {key: away_report()["faults"][key]}
    assert "None: no broken connection" not in Reader(party_page(validate(report))).text


def test_a_federation_that_is_whole_again_says_so() -> None:
    report = away_report()
    report["history"][3:] = [history_row(4, outcome="missed")]
    report["faults"] |= {"quarantined": [], "rejected": []}
    report["faults"]["views"][1] |= {"members": [report["party"], *report["peers"]], "left_out": []}
    told = faults(validate(report))
    assert any("This party missed 1 round, round 4: while" in line for line in told)
    assert "Who takes part changed twice; since round 7 it is all parties." in told


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
    report["faults"]["quarantined"] = [{"peer": evil, "reason": evil}]
    report["faults"]["views"] = [{"view": 1, "round": 1, "members": [evil], "left_out": [evil]}]
    report["privacy"]["sentence"] = evil
    report["privacy"] |= {"mode": evil, "unit": evil, "epsilon": 1.0, "delta": 1e-5}
    report["privacy"] |= {"accountant": evil, "account": private_report()["privacy"]["account"]}
    report["privacy"]["account"] |= {"data_id": evil, "units": [evil, "record"]}
    report["ended_because"], report["outcome"] = evil, "alone"
    report["fusion"], report["kept"] = fusion_part(parties=[evil], kept=evil), evil
    checked = validate(report)
    for page in (party_page(checked), combined_page({evil: checked, "b": checked}, {})):
        reader = Reader(page)
        assert "script" not in reader.tags
        assert reader.text.count(evil) >= 12


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
    for expected in ("A promise.", "dp-frozen", "each patient", "2.98", "10⁻⁵", "prv", "400"):
        assert expected in text


def test_a_data_protection_officer_finds_every_figure_of_the_promise() -> None:
    text = Reader(pages()["private"]).text
    for expected in (
        "(8.00, 1e-05)-DP for each record", "Not covered: the personal model", "In plain words:",
        "8.00 (RDP 8.74)", "10⁻⁵", "Noise multiplier σ", "1.573", "Clipping norm C",
        "Sample rate q", "0.25", "Planned steps", "80", "Account of data set chest-2024",
        "What privacy cost: the personal model", "ε so far", "7.10", "noised model",
        "The shared tensors were trained with noise",
    ):  # fmt: skip
        assert expected in text, expected
    assert "ε released so far" not in text


def test_a_run_that_stopped_early_shows_what_was_released_of_what_was_planned() -> None:
    text = Reader(pages()["budget"]).text
    for expected in (
        "Privacy budget spent. Round 7 was not begun", "6 of 10 rounds ·", "8.00 (RDP 8.74)",
        "ε released so far", "6.10", "6.10 released", "11 releases of 2 runs", "too little",
    ):  # fmt: skip
        assert expected in text, expected


def test_a_whole_update_is_clipped_to_s_and_not_sampled() -> None:
    text = Reader(pages()["update"]).text
    for expected in ("the whole party", "Clipping norm S", "in units of 2S", "no sampling"):
        assert expected in text, expected
    assert "Clipping norm C" not in text


def test_parties_under_one_promise_read_it_once_and_have_their_own_accounts() -> None:
    text = Reader(pages()["private-combined"]).text
    assert text.count("-DP for each record") == text.count("In plain words:") == 1
    assert text.count("Account of data set chest-2024") == text.count("What privacy cost") == 2


def test_without_privacy_no_page_speaks_of_epsilon() -> None:
    for kind in ("party", "troubled", "combined", "fused", "unhelped", "fused-combined"):
        assert "ε" not in pages()[kind]
        assert "In plain words" not in pages()[kind]


def test_the_references_of_privacy_are_listed_only_where_they_were_measured() -> None:
    quiet, noised = (
        [model.key for model in models(validate(report))]
        for report in (sample_report(), private_report())
    )
    assert quiet == ["local_only", "partial", "full", "outputs_only", "fused"]
    assert noised == [*quiet[:2], "federated", "without_privacy", *quiet[2:]]


def test_long_lists_start_folded() -> None:
    assert "<details>" not in pages()["party"]
    report = sample_report(history=[history_row(i + 1) for i in range(40)], rounds=40)
    report["model"]["private"] = [
        {"name": f"layer{i}.weight", "shape": [3], "dtype": "float32"} for i in range(60)
    ]
    assert party_page(validate(report)).count("<details>") == 2


def test_equal_reports_give_equal_pages() -> None:
    assert pages.__wrapped__() == pages()


def test_time_slices_fill_the_wall_time() -> None:
    slices = time_slices(validate(sample_report()))
    assert sum(piece.share for piece in slices) == pytest.approx(100)
    assert sum(piece.seconds for piece in slices) == pytest.approx(24.6)
    assert slices[-1].label == "Everything else"


def test_times_of_several_starts_are_not_called_those_of_the_last() -> None:
    report = sample_report()
    assert " from start to report." in party_page(validate(report))
    report["time"]["wall_s"] = 20.0
    page = party_page(validate(report))
    assert "from the last start to the report; training, exchange and waiting are those" in page
    assert "Wall time of the last start" in page


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
