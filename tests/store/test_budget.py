"""The privacy budget of a data set: paid once, never forgotten, never edited unseen."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.errors import BudgetExceeded, DataError, Defect, FolderDiverged, FolderError
from splitfed.store import BUDGET, Budget, Debit
from splitfed.store.accounts import BUDGET_SCHEMA
from tests.support.budgets import (
    OTHER,
    anything,
    at_most,
    debit_of,
    never,
    nothing,
    opened,
)
from tests.support.folders import FullDisk, new_folder, payload_of, row_of, sign


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / BUDGET


# --- spending -----------------------------------------------------------------------------


def test_what_was_spent_is_there_after_reopening_in_order(file: Path) -> None:
    debits = tuple(debit_of(round) for round in (2, 1, 3))
    with opened(file) as budget:
        assert budget.debits() == ()
        for debit in debits:
            budget.spend(debit, anything)
            assert budget.find(debit.release) == debit
    with opened(file) as budget:
        assert budget.debits() == debits
        assert budget.verify() == 4
        assert budget.find(b"x" * 32) is None


def test_allowed_is_given_all_debits_with_the_new_one_last(file: Path) -> None:
    seen: list[tuple[Debit, ...]] = []
    with opened(file) as budget:
        for round in (1, 2):
            budget.spend(debit_of(round), seen.append)
    assert seen == [(debit_of(1),), (debit_of(1), debit_of(2))]


def test_spending_a_debit_again_changes_nothing_and_asks_nobody(file: Path) -> None:
    with opened(file) as budget:
        budget.spend(debit_of(1, max_grad_norm=1), anything)
        budget.spend(debit_of(2), anything)
        budget.spend(debit_of(1, max_grad_norm=1), never)
        assert budget.debits() == (debit_of(1), debit_of(2))
        assert budget.verify() == 3


def test_a_debit_that_is_found_is_synced_once_more(file: Path) -> None:
    """It may come from a process that was killed between writing and syncing it."""
    log = file.with_name(f"{file.name}-wal")
    with opened(file) as budget:
        budget.spend(debit_of(1), anything)
        before = log.stat().st_size
        budget.spend(debit_of(1), never)
        assert log.stat().st_size > before


@pytest.mark.parametrize(
    ("field", "value"),
    [("root", b"z" * 32), ("noise_multiplier", 1.2), ("steps", 11), ("mode", "dp-all")],
)
def test_other_bytes_or_terms_under_a_debited_release_are_refused(
    file: Path, field: str, value: Any
) -> None:
    with opened(file) as budget:
        budget.spend(debit_of(1), anything)
        with pytest.raises(FolderDiverged, match=f"round 1, update.*{field} ") as caught:
            budget.spend(debit_of(1, **{field: value}), never)
        assert "stays spent" in caught.value.cure
        assert budget.debits() == (debit_of(1),)


def test_a_release_debited_to_one_account_is_refused_to_another(file: Path) -> None:
    """Otherwise a new [data] id would allow new noise under a name that may have been sent."""
    with opened(file) as budget:
        budget.spend(debit_of(1), anything)
    with opened(file, "skin") as budget, pytest.raises(FolderDiverged, match="data id chest, now"):
        budget.spend(debit_of(1), never)


def test_a_refusal_writes_nothing(file: Path) -> None:
    with opened(file) as budget:
        budget.spend(debit_of(1), anything)
        with pytest.raises(BudgetExceeded, match="too much"):
            budget.spend(debit_of(2), nothing)
        assert budget.debits() == (debit_of(1),)
        budget.spend(debit_of(2), anything)
    with opened(file) as budget:
        assert budget.debits() == (debit_of(1), debit_of(2))


def test_accounts_are_independent(file: Path) -> None:
    with opened(file) as chest, opened(file, "skin", OTHER) as skin:
        chest.spend(debit_of(1), at_most(1))
        skin.spend(debit_of(2), at_most(1))
        with pytest.raises(BudgetExceeded):
            chest.spend(debit_of(3), at_most(1))
        assert (chest.debits(), skin.debits()) == ((debit_of(1),), (debit_of(2),))
        assert chest.find(debit_of(2).release) is None
        assert chest.verify() == skin.verify() == 4


def test_a_changed_data_set_under_the_same_id_is_refused(file: Path) -> None:
    with opened(file) as budget:
        budget.spend(debit_of(1), anything)
    with pytest.raises(DataError) as caught:
        opened(file, digest=OTHER)
    for word in (str(file), "chest", "aa" * 8, "bb" * 8):
        assert word in caught.value.message
    assert "new [data] id" in caught.value.cure
    with opened(file, "chest-2", OTHER) as budget:
        assert budget.debits() == ()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("release", b"short"),
        ("root", b""),
        ("round", 0),
        ("steps", -1),
        ("sample_rate", 1.5),
        ("sample_rate", 0.0),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", float("nan")),
        ("max_grad_norm", float("inf")),
    ],
)
def test_a_debit_that_no_release_can_have_is_a_defect(file: Path, field: str, value: Any) -> None:
    with opened(file) as budget:
        debit = msgspec.structs.replace(debit_of(1), **{field: value})
        with pytest.raises(Defect, match=f"{field} ="):
            budget.spend(debit, anything)
        assert budget.debits() == ()
    with pytest.raises(Defect, match="digest"):
        opened(file, digest=b"short")


def test_a_full_disk_spends_nothing_and_the_same_debit_works_later(file: Path) -> None:
    disk = FullDisk(None)
    with opened(file, disk=disk) as budget:
        disk.left = 0
        with pytest.raises(FolderError, match="no space is left"):
            budget.spend(debit_of(1), anything)
        assert budget.debits() == ()
        disk.left = None
        budget.spend(debit_of(1), anything)
        assert budget.debits() == (debit_of(1),)


# --- two at once --------------------------------------------------------------------------


def test_two_that_spend_at_once_cannot_both_pass_the_last_check(file: Path) -> None:
    """Each holds its check open until the other is inside too, which must never happen."""
    both = threading.Barrier(2)
    outcomes: list[str] = []

    def allowed(debits: tuple[Debit, ...]) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(timeout=1.0)
        at_most(1)(debits)

    def spend(round: int) -> None:
        with opened(file) as budget:
            try:
                budget.spend(debit_of(round), allowed)
                outcomes.append("paid")
            except BudgetExceeded:
                outcomes.append("refused")

    opened(file).close()
    threads = [threading.Thread(target=spend, args=(round,)) for round in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["paid", "refused"]
    assert len(Budget.read(file, "chest")) == 1


PROCESS = """
import sys
from pathlib import Path
import msgspec
from splitfed.errors import BudgetExceeded
from splitfed.store import Budget, Debit

def allowed(debits):
    if len(debits) > 2:
        raise BudgetExceeded("two are enough")

debit = msgspec.msgpack.decode(bytes.fromhex(sys.argv[2]), type=Debit)
print("ready", flush=True)
sys.stdin.readline()
with Budget.open(Path(sys.argv[1]), data_id="chest", data_digest=bytes(32)) as budget:
    try:
        budget.spend(debit, allowed)
        print("paid")
    except BudgetExceeded:
        print("refused")
"""


def test_processes_that_make_one_file_at_once_share_one_account(file: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(file), msgspec.msgpack.encode(debit).hex()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for debit in (debit_of(1), debit_of(2), debit_of(3), debit_of(4))
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert sorted(said) == ["paid\n", "paid\n", "refused\n", "refused\n"]
    assert len(Budget.read(file, "chest")) == 2


def test_a_lock_that_lasts_too_long_is_an_error_that_names_the_file(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert BUDGET_SCHEMA.wait == 30.0
    monkeypatch.setattr("splitfed.store.budget.BUDGET_SCHEMA", replace(BUDGET_SCHEMA, wait=0.05))
    with opened(file) as budget, closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FolderError, match="has been locked by another process") as caught:
            budget.spend(debit_of(1), anything)
        assert str(file) in caught.value.message
        other.execute("ROLLBACK")
        budget.spend(debit_of(1), anything)


def test_a_budget_belongs_to_the_thread_that_opened_it(file: Path) -> None:
    caught: list[str] = []

    def elsewhere() -> None:
        try:
            budget.spend(debit_of(1), anything)
        except Defect as error:
            caught.append(str(error))

    with opened(file) as budget:
        thread = threading.Thread(target=elsewhere, name="link")
        thread.start()
        thread.join()
        assert budget.debits() == ()
    assert ["thread link" in text for text in caught] == [True]


# --- releasing ---------------------------------------------------------------------------


def test_a_release_that_may_not_be_paid_is_not_recorded(tmp_path: Path, file: Path) -> None:
    manifest, payload = payload_of(1.0)
    row = row_of(manifest, 1)
    with new_folder(tmp_path / "a") as folder, opened(file) as budget:
        with pytest.raises(BudgetExceeded):
            folder.release(
                row,
                payload,
                debit=lambda: budget.spend(debit_of(1, root=row.root), nothing),
                sign=sign,
            )
        assert folder.ledger.rows() == ()
        assert budget.debits() == ()


def test_a_recorded_release_is_not_paid_when_other_bytes_come(tmp_path: Path) -> None:
    """The ledger refuses first: nothing is spent for what is not sent."""
    first, second = payload_of(1.0), payload_of(2.0)
    calls = []
    with new_folder(tmp_path / "a") as folder:
        folder.release(row_of(first[0], 1), first[1], debit=lambda: calls.append(1), sign=sign)
        folder.release(row_of(first[0], 1), first[1], debit=lambda: calls.append(2), sign=sign)
        with pytest.raises(Defect):
            folder.release(
                row_of(second[0], 1), second[1], debit=lambda: calls.append(3), sign=sign
            )
    assert calls == [1, 2]
