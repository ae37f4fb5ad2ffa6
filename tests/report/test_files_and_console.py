from __future__ import annotations

import json
import math
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from splitfed.errors import Defect, FolderError
from splitfed.report import (
    console_table,
    plain_lines,
    read_report,
    write_combined,
    write_report,
)
from tests.support.reports import (
    fused_both,
    fused_report,
    fusion_part,
    private_report,
    sample_report,
    score_row,
    troubled_report,
)


def test_a_report_is_written_read_back_and_has_its_page(tmp_path: Path) -> None:
    report = sample_report()
    page = write_report(tmp_path, report)
    assert page == tmp_path / "report.html"
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert read_report(tmp_path) == report
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_keys_beside_the_known_ones_are_kept(tmp_path: Path) -> None:
    report = sample_report(shared_digest="ab12")
    report["history"][0]["evaluate_s"] = 0.5
    write_report(tmp_path, report)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["shared_digest"] == "ab12"
    assert written["history"][0]["evaluate_s"] == 0.5


def test_report_json_is_strict_json(tmp_path: Path) -> None:
    report = sample_report()
    report["history"][0]["train_loss"] = math.inf
    report["extra"] = (1, math.nan)
    write_report(tmp_path, report)

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    written = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert written["history"][0]["train_loss"] is None
    assert written["extra"] == [1, None]


def test_a_faulty_report_leaves_the_old_files_alone(tmp_path: Path) -> None:
    write_report(tmp_path, sample_report())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    report = sample_report()
    del report["verdict"]
    with pytest.raises(Defect, match="verdict"):
        write_report(tmp_path, report)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "not-a-folder"
    file.write_text("")
    with pytest.raises(FolderError, match=r"not-a-folder/report\.html cannot be written"):
        write_report(file, sample_report())


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "does not exist"),
        ("{", "cannot be read"),
        ("[1]", "is not a report"),
        ('{"parties": {}}', "several parties"),
        ('{"schema": 1}', "missing required field `party`"),
    ],
)
def test_what_is_no_report_is_refused_by_path(
    tmp_path: Path, content: str | None, match: str
) -> None:
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(FolderError, match=match) as caught:
        read_report(tmp_path)
    assert str(tmp_path) in caught.value.message


def test_a_demo_writes_both_parties_and_links_their_pages(tmp_path: Path) -> None:
    reports = {"hospital-a": sample_report(), "hospital-b": troubled_report()}
    (tmp_path / "hospital-b").mkdir()
    write_report(tmp_path / "hospital-b", reports["hospital-b"])
    page = write_combined(tmp_path, reports).read_text(encoding="utf-8")
    assert json.loads((tmp_path / "report.json").read_text()) == {"parties": reports}
    assert 'href="hospital-b/report.html"' in page
    assert "hospital-a/report.html" not in page


def printed(reports: dict, width: int = 120) -> str:
    out = StringIO()
    Console(file=out, width=width, force_terminal=False).print(console_table(reports))
    return out.getvalue()


def test_the_table_has_a_row_for_each_party_and_a_column_for_each_measured_model() -> None:
    text = printed({"hospital-a": sample_report(), "hospital-b": troubled_report()})
    for expected in (
        "hospital-a",
        "94.5 %",
        "93.3–95.6",
        "hospital-b",
        "92.1 %",
        "all layers averaged",
        "Federation helped you.",
        "Federation did not help you.",
    ):
        assert expected in text, expected
    assert "after fusion" not in text


def test_under_noise_the_personal_model_and_its_references_have_columns_of_their_own() -> None:
    reports = {"hospital-a": private_report(), "hospital-b": private_report("hospital-b")}
    text = printed(reports, width=160)
    for expected in ("personal model", "noised model itself", "shared layers, no privacy"):
        assert expected in text, expected
    assert "shared layers averaged" not in text
    assert "hospital-b: personal model (partial): 93.1 % (95 % interval 91.9 to 94.2)" in (
        plain_lines(reports)
    )


def test_five_models_and_their_intervals_fit_eighty_columns() -> None:
    assert "91.2–93.5" in printed({"hospital-a": private_report()}, width=80)


def test_after_fusion_all_five_models_stand_side_by_side_in_eighty_columns() -> None:
    text = printed(fused_both(), width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    rows = [line for line in text.splitlines() if line.startswith("│ hospital")]
    assert [row.count(" % ") for row in rows] == [5, 5]
    assert text.count("92.4 %") == 2
    for expected in ("94.5–96.8", "90.1–92.4", "fusion", "outputs"):
        assert expected in text, expected


def seven_models(party: str) -> dict:
    report = private_report(party, fusion=fusion_part(epsilon=0.5), kept="partial")
    report["evaluation"] |= {"outputs_only": score_row(0.9), "fused": score_row(0.94)}
    return report


@pytest.mark.parametrize("parties", [1, 5])
def test_seven_models_have_a_row_each_in_eighty_columns(parties: int) -> None:
    names = [f"hospital-{i}" for i in range(parties)]
    text = printed({name: seven_models(name) for name in names}, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    for row in (
        "│ personal model            │   93.1 % │ 91.9–94.2 │",
        "│ noised model itself       │   74.4 % │ 72.2–76.4 │",
        "│ outputs shared, no layers │   90.0 % │ 88.8–91.1 │",
        "│ after fusion              │   94.0 % │ 92.8–95.1 │",
    ):
        assert text.count(row) == parties, row


def test_a_long_name_does_not_break_the_figures() -> None:
    name = "h" * 63
    text = printed({name: fused_report(name)}, width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "│   95.7 % │ 94.5–96.8 │" in text


def test_every_party_reads_its_verdict_and_which_model_it_kept() -> None:
    text = " ".join(printed(fused_both(), width=80).split())
    assert "hospital-a: Federation helped you." in text
    assert "hospital-b: Federation did not help you." in text
    assert "Kept: the fused model (own" in text
    assert "Kept: the model trained alone (own" in text
    lines = plain_lines(fused_both())
    assert "hospital-a: after fusion (fused): 95.7 % (95 % interval 94.5 to 96.8)" in lines
    assert (
        "hospital-b: Kept: the model trained alone (own validation images: trained alone 93.1 %, "
        "shared layers averaged 92.7 %, after fusion 91.9 %); no other is better there by more "
        "than one standard error."
    ) in lines


def test_a_model_that_parties_made_differently_has_its_usual_name() -> None:
    text = printed({"hospital-a": private_report(), "hospital-b": sample_report("hospital-b")}, 160)
    assert "shared layers averaged" in text
    assert "personal model │" not in text


def test_names_in_the_table_are_not_taken_for_markup() -> None:
    name = "[red]x[/red]"
    assert name in printed({name: sample_report(name)})


def test_plain_lines_tell_the_same_without_control_characters() -> None:
    name = "hospital\x1b[31m"
    lines = plain_lines({name: sample_report(name), "hospital-b": troubled_report()})
    assert "hospital-b: trained alone (local_only): 94.4 % (95 % interval 93.2 to 95.5)" in lines
    assert any(line.startswith("hospital-b: Federation did not help you. ") for line in lines)
    assert all(line.isprintable() for line in lines)


def test_a_regression_is_listed_by_its_loss() -> None:
    row = {"accuracy": None, "accuracy_low": None, "accuracy_high": None, "loss": 0.125}
    report = sample_report(verdict=None)
    report["evaluation"] |= {"local_only": None, "partial": row, "full": None}
    assert plain_lines({"hospital-a": report})[0] == (
        "hospital-a: shared layers averaged (partial): loss 0.1250"
    )
    assert "loss 0.1250" in printed({"hospital-a": report})


def test_nothing_heavy_is_imported_until_it_is_needed() -> None:
    code = (
        "import sys, splitfed.report; "
        "print(*sorted({'torch', 'matplotlib', 'jinja2', 'rich', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""
