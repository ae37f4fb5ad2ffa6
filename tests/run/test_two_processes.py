"""Two real processes over a real socket: what `splitfed run` promises from outside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.store import RunFolder
from tests.support.ports import free_port

WITHIN = 100.0
NAMES = ("a", "b")


def newcomer(index: int, where: Path, address: str | None) -> Newcomer:
    source = f"digits:party={index}&parties=2&split=iid&records=96"
    return Newcomer(
        party=NAMES[index],
        address=address,
        records=96,
        sources=sources_of(source, where),
        acceptance=index == 0,
    )


@pytest.fixture
def pair(tmp_path):
    """Two party folders with one agreement of three rounds."""
    address = f"tcp://127.0.0.1:{free_port()}"
    proposal = Proposal(name="pair", classes=DIGITS, rounds=3, privacy="none")
    made = found(tmp_path / "a", proposal, newcomer(0, tmp_path, address))
    joined = join(tmp_path / "b", made.federation_file, newcomer(1, tmp_path, None))
    shutil.copyfile(joined.federation_file, made.federation_file)
    return tmp_path


def start(where: Path, name: str, *more: str, command: str = "run") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "splitfed", command, str(where / name / "party.toml"), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    try:
        out, error = process.communicate(timeout=WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        pytest.fail(f"did not end:\n{out}\n{error}")
    return process.returncode, out, error


def report(where: Path, name: str) -> dict:
    return json.loads((where / name / "runs" / name / "report.json").read_text())


def test_two_processes_train_together_and_a_second_run_does_nothing(pair):
    processes = [start(pair, name) for name in NAMES]
    for process in processes:
        code, out, error = end(process)
        assert code == 0, out + error
        assert "NO PRIVACY" in out or "report" in out
    a, b = report(pair, "a"), report(pair, "b")
    assert a["shared_digest"] == b["shared_digest"]
    assert a["contract"] == b["contract"]
    assert [row["outcome"] for row in a["history"]] == ["agreed"] * 3
    assert {s["name"] for s in a["model"]["shared"]} == {
        "conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight"
    }  # fmt: skip
    payload = 3 * 18_816 * 4
    assert a["traffic"]["payload_bytes_sent"] == payload == b["traffic"]["payload_bytes_received"]
    assert a["traffic"]["wire_bytes_sent"] <= 1.02 * payload + 3 * 2048 + 8192
    assert a["verdict"] is not None
    assert b["verdict"] is None
    before = (pair / "a" / "runs" / "a" / "model.safetensors").read_bytes()
    code, out, error = end(start(pair, "a"))
    assert code == 0
    assert "is finished" in out + error
    assert (pair / "a" / "runs" / "a" / "model.safetensors").read_bytes() == before


def test_a_killed_party_goes_on_and_both_end_as_if_undisturbed(pair):
    first, second = start(pair, "a"), start(pair, "b")
    assert first.stdout is not None
    for line in first.stdout:
        if "round 1: agreed" in line:
            break
    second.send_signal(signal.SIGKILL)
    second.wait()
    second.stdout.close()
    second.stderr.close()
    again = start(pair, "b")
    code, out, error = end(again)
    assert code == 0, out + error
    first_code, _, first_error = end(first)
    assert first_code == 0, first_error
    assert report(pair, "a")["shared_digest"] == report(pair, "b")["shared_digest"]
    for name in NAMES:
        with RunFolder.read_only(pair / name / "runs" / name) as folder:
            assert [row.row.round for row in folder.ledger.rows()] == [1, 2, 3]
            assert [row["outcome"] for row in folder.history()] == ["agreed"] * 3


def test_differing_agreements_are_shown_side_by_side_on_both_sides(pair):
    file = pair / "b" / "federation.toml"
    file.write_text(file.read_text().replace("rounds = 3", "rounds = 5"))
    processes = [start(pair, name) for name in NAMES]
    for process in processes:
        code, out, error = end(process)
        assert code == 2, out + error
        assert "rounds" in error
        assert "3" in error
        assert "5" in error
    for name in NAMES:
        with RunFolder.read_only(pair / name / "runs" / name) as folder:
            assert folder.ledger.rows() == ()


def test_a_key_that_is_not_on_the_list_is_refused_at_once(pair):
    other = pair / "other"
    found(
        other,
        Proposal(name="x", classes=DIGITS, privacy="none"),
        newcomer(1, pair, "tcp://127.0.0.1:1"),
    )
    mine = json.loads((other / "secret.json").read_text())
    text = (pair / "b" / "federation.toml").read_text()
    own = json.loads((pair / "b" / "secret.json").read_text())
    text = text.replace(own["curve_public"], mine["curve_public"])
    text = text.replace(own["signing_public"], mine["signing_public"])
    (pair / "b" / "federation.toml").write_text(text)
    shutil.copy(other / "secret.json", pair / "b" / "secret.json")
    listener = start(pair, "a")
    try:
        code, _, error = end(start(pair, "b"))
        assert code == 3
        assert "key" in error
    finally:
        listener.send_signal(signal.SIGINT)
        assert end(listener)[0] == 130


def test_a_pinned_key_that_is_not_theirs_is_told_apart(pair):
    other = pair / "other"
    found(
        other,
        Proposal(name="x", classes=DIGITS, privacy="none"),
        newcomer(0, pair, "tcp://127.0.0.1:1"),
    )
    wrong = json.loads((other / "secret.json").read_text())["curve_public"]
    right = json.loads((pair / "a" / "secret.json").read_text())["curve_public"]
    file = pair / "b" / "federation.toml"
    file.write_text(file.read_text().replace(right, wrong))
    listener = start(pair, "a")
    try:
        code, _, error = end(start(pair, "b"))
        assert code == 3
        assert "the agreement pins" in error
    finally:
        listener.send_signal(signal.SIGINT)
        assert end(listener)[0] == 130


def test_two_runs_in_one_folder_are_refused_by_process_id(pair):
    first = start(pair, "a")
    try:
        assert first.stdout is not None
        for line in first.stdout:
            if "meeting" in line:  # from here on it holds the folder
                break
        code, _, error = end(start(pair, "a"))
        assert code == 2
        assert str(first.pid) in error
    finally:
        first.send_signal(signal.SIGINT)
        assert end(first)[0] == 130


def test_check_finds_a_waiting_run_and_disturbs_nothing(pair):
    listener = start(pair, "a")
    try:
        code, out, error = end(start(pair, "b", "--json", command="check"))
        assert code == 0, out + error
        assert json.loads(out)[0]["ok"] is True
        code, out, error = end(start(pair, "b"))
    finally:
        if listener.poll() is None and code != 0:
            listener.send_signal(signal.SIGINT)
    assert code == 0, out + error
    assert end(listener)[0] == 0
