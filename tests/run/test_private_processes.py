"""Two real processes under differential privacy: what is promised survives kills, budgets,
prolongation and edited files."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.store import Budget, RunFolder
from tests.support.commands import Shell, answer_to
from tests.support.pairs import end, here, report, run_both, start, until
from tests.support.ports import free_port

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


def change(where: Path, name: str, file: str, old: str, new: str) -> None:
    path = where / name / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def roots(where: Path, name: str) -> list[bytes]:
    with RunFolder.read_only(where / name / "runs" / name) as folder:
        return [row.row.root for row in folder.ledger.rows()]


def ledgers_hold(where: Path) -> None:
    """Both sides' folders verify together, each against its own budget."""
    it = answer_to(
        "verify",
        *(where / name / "runs" / name for name in "ab"),
        *("--federation", where / "a" / "federation.toml"),
    )
    assert it.code == 0, it.told
    assert it.out.count(" 4 of 4 in ") == 2, it.out


def debits(where: Path, name: str):
    return Budget.read(where / name / "budget.sqlite", "images")


def test_a_killed_private_run_goes_on_and_a_longer_agreement_keeps_its_noise(pair: Path) -> None:
    first, second = start(pair, "a"), start(pair, "b")
    until(first, "round 1: agreed")
    second.send_signal(signal.SIGKILL)
    second.communicate()
    paid = debits(pair, "b")
    again = here(pair, "b")
    assert again.code == 0, again.told
    code, out, error = end(first)
    assert code == 0, out + error
    for told in (again.out, out):
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
    (code, out, error), longer = run_both(pair)
    assert longer.code == 0, longer.told
    assert code == 0, out + error
    four = report(pair, "b")
    assert [row["outcome"] for row in four["history"]] == ["agreed"] * 4
    assert four["privacy"]["noise_multiplier"] == 2.0
    assert four["privacy"]["epsilon"] > three["privacy"]["epsilon"]
    assert roots(pair, "b")[:3] == [debit.root for debit in debits(pair, "b")][:3]
    ledgers_hold(pair)


def test_a_spent_budget_ends_the_run_with_4_and_leaves_a_usable_model(
    pair: Path, shell: Shell
) -> None:
    change(pair, "a", "party.toml", 'id = "images"', BUDGET)
    change(pair, "b", "party.toml", "patience = 0", "patience = 3")
    change(pair, "b", "party.toml", '"wait"', '"finish-alone"')
    (code, out, error), other = run_both(pair)
    assert code == 4, out + error
    assert "BudgetExceeded" in error
    assert "round 2 was not begun" in error
    assert "budget_epsilon" in error
    assert other.code == 5, other.told
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
