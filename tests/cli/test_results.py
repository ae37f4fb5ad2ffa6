"""After a run: status, evaluate and report read its folder and change nothing in it."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from splitfed.founding import Newcomer, Proposal, found, join, sources_of
from splitfed.run import check_peers
from tests.support.commands import Shell
from tests.support.pairs import run_both
from tests.support.pictures import CLASSES, write_pictures
from tests.support.ports import free_port


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair that ran to its end through the command line; the folder of both parties.

    Party a was told to print events, party b JSON; what they printed lies beside them.
    """
    where = tmp_path_factory.mktemp("finished")
    write_pictures(where / "pictures")

    def newcomer(name: str, address: str | None) -> Newcomer:
        sources = sources_of(str(where / "pictures"), where / name)
        return Newcomer(
            party=name, address=address, records=None, sources=sources, acceptance=name == "a"
        )

    proposal = Proposal(
        name="pair",
        classes=CLASSES,
        rounds=2,
        arguments={"widths": [4, 4, 4]},
        privacy="none",
    )
    made = found(where / "a", proposal, newcomer("a", f"tcp://127.0.0.1:{free_port()}"))
    joined = join(where / "b", made.federation_file, newcomer("b", None))
    made.federation_file.write_bytes(joined.federation_file.read_bytes())
    (code, out, error), b = run_both(where, a="--events", b="--json")
    assert b.code == 0, b.told
    assert code == 0, error
    (where / "a.out").write_text(out)
    (where / "b.out").write_text(b.out)
    return where


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in (".html",) and "sqlite" not in file.name
    }


def test_events_are_json_lines_that_end_with_the_outcome(finished: Path) -> None:
    events = [json.loads(line) for line in (finished / "a.out").read_text().splitlines()]
    assert [e["row"]["round"] for e in events if e["event"] == "round"] == [1, 2]
    assert events[-1] == {
        "event": "end",
        "exit_code": 0,
        "report": str(finished / "a" / "runs" / "a" / "report.html"),
    }
    assert any(e["event"] == "peer" and e["peer"] == "b" for e in events)


def test_json_is_the_report_and_nothing_else(finished: Path) -> None:
    report = json.loads((finished / "b.out").read_text())
    assert report == json.loads((finished / "b" / "runs" / "b" / "report.json").read_text())
    assert report["party"] == "b"


def test_status_of_a_finished_run(shell: Shell, finished: Path) -> None:
    folder = finished / "a" / "runs" / "a"
    before = contents(folder)
    answer = shell("status", folder)
    assert answer.code == 0, answer.error
    assert "not running" in answer.out
    assert "round 2: agreed" in answer.out
    found: Any = json.loads(shell("status", folder, "--json").out)
    assert (found["party"], found["running_pid"], found["closed_round"]) == ("a", None, 2)
    assert found["confirmed"] is True
    assert contents(folder) == before


def test_report_writes_the_page_anew_and_prints_the_table(shell: Shell, finished: Path) -> None:
    folder = finished / "a" / "runs" / "a"
    page = folder / "report.html"
    written = page.read_bytes()
    page.unlink()
    before = contents(folder)
    answer = shell("report", folder)
    assert answer.code == 0, answer.error
    assert f"report: {page}" in answer.out
    assert "NO PRIVACY GUARANTEE" in answer.out
    assert "a: trained alone (local_only)" in answer.out
    assert page.read_bytes()[:100] == written[:100]
    assert contents(folder) == before
    assert json.loads(shell("report", folder, "--json").out)["party"] == "a"


def test_evaluate_measures_what_the_report_says(shell: Shell, finished: Path) -> None:
    for name in ("a", "b"):
        folder = finished / name / "runs" / name
        before = contents(folder)
        found: Any = json.loads(shell("evaluate", folder, "--json").out)
        assert found["measured"]["test_size"] == 12
        assert found["measured"]["accuracy"] == found["reported"]["accuracy"]
        assert found["measured"]["loss"] == pytest.approx(found["reported"]["loss"])
        assert contents(folder) == before
    assert "measured now" in shell("evaluate", folder).out


def test_evaluate_wants_the_party_file_of_this_run(
    shell: Shell, finished: Path, tmp_path: Path
) -> None:
    folder = finished / "a" / "runs" / "a"
    answer = shell("evaluate", folder, "--party-file", finished / "b" / "party.toml")
    assert answer.code == 2
    assert "is of b" in answer.error
    answer = shell("evaluate", folder, "--party-file", tmp_path / "party.toml")
    assert answer.code == 2
    assert "--party-file" in answer.error


def test_evaluate_names_a_damaged_model(shell: Shell, finished: Path) -> None:
    model = finished / "a" / "runs" / "a" / "model.safetensors"
    values = model.read_bytes()
    model.write_bytes(values[:40])
    try:
        answer = shell("evaluate", model.parent)
    finally:
        model.write_bytes(values)
    assert answer.code == 2
    assert "model.safetensors is damaged or was changed" in answer.error


def test_a_second_run_does_nothing_and_says_so(shell: Shell, finished: Path) -> None:
    folder = finished / "a" / "runs" / "a"
    before = contents(folder)
    answer = shell("run", finished / "a" / "party.toml")
    assert answer.code == 0
    assert "is finished" in answer.error
    assert contents(folder) == before


def test_check_of_an_absent_peer_gives_up_with_3(
    shell: Shell, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitfed.run.check_peers", partial(check_peers, timeout=1.0))
    answer = shell("check", finished / "b" / "party.toml", "--json")
    assert answer.code == 3, answer.error
    found: Any = json.loads(answer.out)
    assert (found[0]["peer"], found[0]["ok"], found[0]["reachable"]) == ("a", False, False)
    assert found[0]["cure"]
