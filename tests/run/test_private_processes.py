"""Two real processes under differential privacy: what is promised survives kills, budgets,
prolongation and edited files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.store import Budget, RunFolder
from tests.support.commands import Shell
from tests.support.ports import free_port

WITHIN = 100.0
TERMS = """mode = "dp-frozen"
noise_multiplier = 2.0
delta = 1e-4
max_grad_norm = 1.0
sample_rate = 0.25
steps_per_round = 2
"""


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """Two parties with an agreement of three rounds; the noise is given, which saves a search."""
    proposal = Proposal(
        name="pair", classes=DIGITS, rounds=3, arguments={"widths": [4, 4, 4]}, privacy="none"
    )
    address = f"tcp://127.0.0.1:{free_port()}"

    def newcomer(index: int, address: str | None) -> Newcomer:
        source = f"digits:party={index}&parties=2&split=iid&records=96"
        sources = sources_of(source, tmp_path)
        return Newcomer(party="ab"[index], address=address, records=96, sources=sources)

    made = found(tmp_path / "a", proposal, newcomer(0, address))
    joined = join(tmp_path / "b", made.federation_file, newcomer(1, None))
    agreement = joined.federation_file.read_text().replace('mode = "none"\n', TERMS)
    for name in "ab":
        (tmp_path / name / "federation.toml").write_text(agreement)
    return tmp_path


def start(where: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "splitfed", "run", str(where / name / "party.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        out, error = process.communicate(timeout=WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        pytest.fail(f"did not end:\n{out}\n{error}")
    return process.returncode, out + error


def change(where: Path, name: str, file: str, old: str, new: str) -> None:
    path = where / name / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def report(where: Path, name: str) -> dict:
    return json.loads((where / name / "runs" / name / "report.json").read_text())


def roots(where: Path, name: str) -> list[bytes]:
    with RunFolder.read_only(where / name / "runs" / name) as folder:
        return [row.row.root for row in folder.ledger.rows()]


def debits(where: Path, name: str):
    return Budget.read(where / name / "budget.sqlite", "images")


def test_a_killed_private_run_goes_on_and_a_longer_agreement_keeps_its_noise(pair: Path) -> None:
    first, second = start(pair, "a"), start(pair, "b")
    assert first.stdout is not None
    for line in first.stdout:
        if "round 1: agreed" in line:
            break
    second.send_signal(signal.SIGKILL)
    second.communicate()
    paid = debits(pair, "b")
    for process in (start(pair, "b"), first):
        code, told = end(process)
        assert code == 0, told
    assert "-DP for each record of this party" in told
    for name in "ab":
        assert [debit.root for debit in debits(pair, name)] == roots(pair, name)
        assert [debit.round for debit in debits(pair, name)] == [1, 2, 3]
    assert debits(pair, "b")[: len(paid)] == paid
    three = report(pair, "b")
    assert three["shared_digest"] == report(pair, "a")["shared_digest"]
    assert three["privacy"]["released_epsilon"] == three["privacy"]["epsilon"]
    assert three["privacy"]["account"]["spent_epsilon"] == three["privacy"]["epsilon"]
    assert [row["epsilon"] for row in three["history"]] == sorted(
        row["epsilon"] for row in three["history"]
    )

    for name in "ab":
        change(pair, name, "federation.toml", "\nrounds = 3", "\nrounds = 4")
    for process in [start(pair, name) for name in "ab"]:
        code, told = end(process)
        assert code == 0, told
    four = report(pair, "b")
    assert [row["outcome"] for row in four["history"]] == ["agreed"] * 4
    assert four["privacy"]["noise_multiplier"] == 2.0
    assert four["privacy"]["epsilon"] > three["privacy"]["epsilon"]
    assert roots(pair, "b")[:3] == [debit.root for debit in debits(pair, "b")][:3]


def test_a_spent_budget_ends_the_run_with_4_and_leaves_a_usable_model(
    pair: Path, shell: Shell
) -> None:
    change(pair, "a", "party.toml", 'id = "images"', BUDGET)
    change(pair, "b", "party.toml", "patience = 0", "patience = 1")
    change(pair, "b", "party.toml", '"wait"', '"finish-alone"')
    processes = [start(pair, name) for name in "ab"]
    code, told = end(processes[0])
    assert code == 4, told
    assert "BudgetExceeded" in told
    assert "round 2 was not begun" in told
    assert "budget_epsilon" in told
    code, told = end(processes[1])
    assert code == 5, told
    ended = report(pair, "a")
    assert ended["outcome"] == "budget"
    assert len(ended["history"]) == len(debits(pair, "a")) == len(roots(pair, "a")) == 1
    assert ended["evaluation"]["partial"]["accuracy"] is not None
    assert ended["privacy"]["released_epsilon"] < ended["privacy"]["epsilon"]
    assert (pair / "a" / "runs" / "a" / "model.safetensors").is_file()
    b = report(pair, "b")
    assert [row["outcome"] for row in b["history"]] == ["agreed", "alone", "alone"]
    # Its update of round 2 had left already, or at least been paid; alone it releases nothing.
    assert [debit.round for debit in debits(pair, "b")] in ([1], [1, 2])
    assert b["history"][-1]["epsilon"] == b["privacy"]["account"]["spent_epsilon"]

    file, party = pair / "a" / "budget.sqlite", pair / "a" / "party.toml"
    change(pair, "a", "party.toml", "party=0", "party=1")
    answer = shell("run", party)
    assert answer.code == 2
    assert "opened for a data set with digest" in answer.error
    change(pair, "a", "party.toml", "party=1", "party=0")
    kept = file.read_bytes()
    with sqlite3.connect(file) as database:
        database.execute("UPDATE debits SET noise_multiplier = 9.0")
    database.close()
    answer = shell("run", party)
    assert answer.code == 4
    assert str(file) in answer.error
    for left in pair.glob("a/budget.sqlite*"):
        left.unlink()
    answer = shell("run", party)
    assert answer.code == 4
    assert "is not the file that paid for round 1" in answer.error
    assert "BUDGET.SQLITE IS NOT COMPLETE: it lacks 1 release(s)" in shell("plan", party).out
    file.write_bytes(kept)
    shutil.rmtree(pair / "a" / "runs")
    assert "THE LIMIT IS NOT ENOUGH" in shell("plan", party).out


BUDGET = """id = "images"
budget_epsilon = 1.0
budget_delta = 1e-4"""


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)
