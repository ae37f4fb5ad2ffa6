"""A party's account over whole federations: paid before it is sent, once, and no further
than the budget goes; T4, with the engine, the folder and the budget together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
import torch

from splitfed.errors import (
    BudgetExceeded,
    DataError,
    FolderDiverged,
    LedgerTampered,
    PrivacyError,
)
from splitfed.privacy import Spend, epsilon
from splitfed.run.party import _same_unit
from splitfed.run.spending import Account, Limit, spends_of
from splitfed.store import Budget, ReleaseRow, RunFolder
from splitfed.transport.link import Link
from tests.support.members import Town
from tests.support.privacy import mechanism

DIGEST = b"d" * 32


def account(budget: Budget, limit: float | None = None, **changes) -> Account:
    terms = mechanism("dp-frozen", noise_multiplier=2.0, rounds=4, **changes)
    return Account(
        mechanism=terms,
        party="a",
        budget=budget,
        limit=None if limit is None else Limit(epsilon=limit, delta=1e-5),
    )


def cost(rounds: int) -> float:
    return epsilon([Spend(sample_rate=1.0, noise_multiplier=2.0, steps=rounds)], 1e-5)


def opened(path: Path, data_id: str = "scans", digest: bytes = DIGEST) -> Budget:
    return Budget.open(path / "budget.sqlite", data_id=data_id, data_digest=digest)


def debits(path: Path):
    return Budget.read(path / "budget.sqlite", "scans")


class Accounts:
    """Runs party "a" of a town on an account of its own; the budget belongs to its thread."""

    def __init__(self, town: Town, limit: float | None = None) -> None:
        self.town, self.limit = town, limit

    def start(self) -> None:
        import threading

        def work() -> None:
            try:
                with opened(self.town.path) as budget:
                    ending = self.town.live("a", spending=account(budget, self.limit))
                self.town.endings["a"] = ending
            except BaseException as error:
                self.town.endings["a"] = error

        thread = threading.Thread(target=work, daemon=True)
        self.town._threads["a"] = thread
        thread.start()


def test_every_release_is_debited_once_and_the_ledger_says_what_it_cost(tmp_path) -> None:
    town = Town(tmp_path, ["a", "b"])
    Accounts(town, limit=50.0).start()
    town.start("b")
    town.wait()
    assert town.endings["a"].outcome == "done"
    with RunFolder.read_only(town.folders["a"]) as folder:
        rows = folder.ledger.rows()
        history = folder.history()
    paid = debits(tmp_path)
    assert [debit.round for debit in paid] == [1, 2, 3, 4]
    assert [(d.release, d.root) for d in paid] == [(r.row.release, r.row.root) for r in rows]
    wanted = [cost(rounds) for rounds in (1, 2, 3, 4)]
    assert [row.row.epsilon for row in rows] == wanted
    assert [row["epsilon"] for row in history] == wanted


def test_a_round_that_would_exceed_the_budget_is_not_begun(tmp_path) -> None:
    town = Town(tmp_path, ["a", "b"])
    Accounts(town, limit=(cost(2) + cost(3)) / 2).start()
    town.start("b", patience=0.5, on_absent="finish-alone")
    town.wait()
    error = town.endings["a"]
    assert isinstance(error, BudgetExceeded)
    assert error.exit_code == 4
    assert "round 3 was not begun" in error.message
    assert f"{cost(2):.4f} is spent" in error.message
    assert town.learners["a"].trained == [1, 2]
    assert len(debits(tmp_path)) == 2
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert len(folder.ledger) == 2


def test_two_runs_on_one_data_set_share_its_budget(tmp_path) -> None:
    limit = (cost(5) + cost(6)) / 2
    for number, expected in ((1, "done"), (2, BudgetExceeded)):
        town = Town(tmp_path / str(number), ["a", "b"])
        town.path = tmp_path
        Accounts(town, limit).start()
        town.start("b", patience=0.5, on_absent="finish-alone")
        town.wait()
        ending = town.endings["a"]
        assert isinstance(ending, BudgetExceeded) if number == 2 else ending.outcome == expected
    assert len(debits(tmp_path)) == 5
    assert epsilon(spends_of(debits(tmp_path)), 1e-5) <= limit


def test_without_a_limit_everything_is_recorded_all_the_same(tmp_path) -> None:
    town = Town(tmp_path, ["a", "b"])
    Accounts(town).start()
    town.start("b")
    town.wait()
    assert len(debits(tmp_path)) == 4


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["before debit", "after debit"])
def test_after_a_kill_around_the_debit_the_same_bytes_are_sent_and_paid_once(
    tmp_path, monkeypatch, point
) -> None:
    town = Town(tmp_path, ["a", "b"])
    # New noise in every process: what must not change is only what was released.
    learner = town.learners["a"]
    plain = learner.train

    def noisy(round, step):
        trained = plain(round, step)
        learner.values = {n: t + torch.randn(t.shape) * 0.01 for n, t in learner.values.items()}
        return trained

    learner.train = noisy
    spend = Budget.spend

    def killed(self, debit, allowed):
        if debit.round == 2:
            if point == "after debit":
                spend(self, debit, allowed)
            raise Killed
        spend(self, debit, allowed)

    monkeypatch.setattr(Budget, "spend", killed)
    Accounts(town).start()
    town.start("b")
    town.wait("a")
    assert isinstance(town.endings["a"], Killed)
    before = debits(tmp_path)
    assert len(before) == (2 if point == "after debit" else 1)
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert len(folder.ledger) == 1  # nothing of round 2 was recorded, so nothing was sent
    monkeypatch.setattr(Budget, "spend", spend)
    Accounts(town).start()
    town.wait()
    after = debits(tmp_path)
    assert after[: len(before)] == before
    assert [debit.round for debit in after] == [1, 2, 3, 4]
    spent = [epsilon(spends_of(rows), 1e-5) for rows in (before, after)]
    assert spent[1] >= spent[0]
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert [row.row.root for row in folder.ledger.rows()] == [debit.root for debit in after]


def test_new_noise_under_a_release_that_was_paid_is_never_sent(tmp_path, monkeypatch) -> None:
    """Killed right after paying; then the folder is put back from a backup and trained again."""
    town = Town(tmp_path, ["a", "b"])

    def kill(round: int) -> None:
        if round == 2:
            raise Killed

    town.learners["a"].crash = kill
    Accounts(town).start()
    town.start("b")
    town.wait("a")
    shutil.copytree(town.folders["a"], tmp_path / "backup")
    town.learners["a"].crash = lambda round: None
    spend = Budget.spend

    def paid_and_killed(self, debit, allowed):
        spend(self, debit, allowed)
        raise Killed

    monkeypatch.setattr(Budget, "spend", paid_and_killed)
    Accounts(town).start()
    town.wait("a")
    assert [debit.round for debit in debits(tmp_path)] == [1, 2]
    monkeypatch.setattr(Budget, "spend", spend)
    shutil.rmtree(town.folders["a"])
    shutil.copytree(tmp_path / "backup", town.folders["a"])
    town.learners["a"].step += 0.25  # stands for new noise
    Accounts(town).start()
    town.wait("a")
    assert isinstance(town.endings["a"], FolderDiverged)
    assert "debited with other bytes" in town.endings["a"].message
    assert len(debits(tmp_path)) == 2
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert len(folder.ledger) == 1


def test_the_engine_asks_before_it_trains_not_after(tmp_path) -> None:
    town = Town(tmp_path, ["a", "b"])
    Accounts(town, limit=cost(1) / 2).start()
    town.start("b", patience=0.5, on_absent="finish-alone")
    town.wait()
    assert isinstance(town.endings["a"], BudgetExceeded)
    assert town.learners["a"].trained == []
    assert debits(tmp_path) == ()


def test_an_account_that_forgot_a_release_of_the_folder_is_refused(tmp_path) -> None:
    town = Town(tmp_path, ["a", "b"])
    Accounts(town).start()
    town.start("b")
    town.wait()
    for file in tmp_path.glob("budget.sqlite*"):
        file.unlink()
    with (
        opened(tmp_path) as budget,
        RunFolder.read_only(town.folders["a"]) as folder,
        pytest.raises(LedgerTampered),
    ):
        budget.require(folder.ledger.rows())


def test_a_budget_that_another_run_spent_meanwhile_is_seen_under_the_lock(tmp_path) -> None:
    """Both runs asked in time; the second to pay is refused."""
    row = ReleaseRow(release=b"2" * 32, round=1, kind="update", tensors=(), root=b"r" * 32, size=0)
    with opened(tmp_path) as one, opened(tmp_path) as other:
        mine, theirs = (account(budget, (cost(1) + cost(2)) / 2) for budget in (one, other))
        mine.allow(b"m" * 32, 1, "update")
        theirs.allow(b"t" * 32, 1, "update")
        theirs.debit(b"t" * 32, msgspec.structs.replace(row, release=b"1" * 32))
        with pytest.raises(BudgetExceeded):
            mine.debit(b"m" * 32, row)
    assert len(debits(tmp_path)) == 1


def test_where_an_account_stands(tmp_path) -> None:
    town = Town(tmp_path, ["a", "b"])
    Accounts(town, limit=50.0).start()
    town.start("b")
    town.wait()
    with opened(tmp_path) as budget:
        row = account(budget, 50.0).row()
    assert row is not None
    assert row["spent_epsilon"] == cost(4)
    assert (row["budget_epsilon"], row["runs"], row["releases"]) == (50.0, 1, 4)
    assert json.dumps(row)


def test_debits_of_different_mechanisms_are_composed_together() -> None:
    many = [
        Spend(sample_rate=0.1, noise_multiplier=1.0, steps=100),
        Spend(sample_rate=1.0, noise_multiplier=8.0, steps=4),
    ]
    together = epsilon(many, 1e-5)
    assert max(epsilon([spend], 1e-5) for spend in many) < together
    assert together < sum(epsilon([spend], 1e-5) for spend in many)
    assert epsilon(many[::-1], 1e-5) == together
    assert FolderDiverged.exit_code == LedgerTampered.exit_code == 4


def test_an_account_without_a_debit_follows_its_data(tmp_path) -> None:
    """A run that was refused over its data has spent nothing: mending them needs no new id."""
    opened(tmp_path).close()
    opened(tmp_path, digest=b"e" * 32).close()
    with opened(tmp_path, digest=b"f" * 32) as budget:
        account(budget).debit(
            b"t" * 32,
            ReleaseRow(
                release=b"1" * 32, round=1, kind="update", tensors=(), root=b"r" * 32, size=0
            ),
        )
        assert budget.verify() == 4
    with pytest.raises(DataError, match="scans"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("used", "now", "refused"),
    [
        ("record", "patient", True), ("patient", "record", True), ("record", "record", False),
        ("party", "record", False), ("record", "party", False),
    ],
)  # fmt: skip
def test_one_account_does_not_add_up_records_and_patients(tmp_path, used, now, refused) -> None:
    row = ReleaseRow(release=b"1" * 32, round=1, kind="update", tensors=(), root=b"r" * 32, size=0)
    with opened(tmp_path) as budget:
        account(budget, unit=used).debit(b"t" * 32, row)
        if refused:
            with pytest.raises(PrivacyError, match=f"each {used}, this agreement protects each"):
                _same_unit(mechanism(unit=now), budget)
        else:
            _same_unit(mechanism(unit=now), budget)
        assert len(budget.debits()) == 1


@pytest.mark.parametrize("mode", ["dp-frozen", "party-update"])
def test_peers_are_told_steps_only_where_their_number_is_agreed(
    tmp_path, monkeypatch, mode
) -> None:
    town, told = Town(tmp_path, ["a", "b"]), set()
    status = Link.status

    def heard(self, phase, round, step, steps, awaits=()):
        if phase == "training":
            told.add(steps)
        status(self, phase, round, step, steps, awaits)

    monkeypatch.setattr(Link, "status", heard)
    for name in "ab":
        terms = mechanism(mode, noise_multiplier=9.0)
        town.start(name, spending=Account(mechanism=terms, party=name))
    town.wait()
    assert {town.endings[name].outcome for name in "ab"} == {"done"}
    assert told == ({0, 1} if mode == "dp-frozen" else {0})  # the learner takes one step
