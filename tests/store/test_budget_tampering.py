"""A budget file that something else than splitfed changed is found, and the row named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.errors import LedgerTampered
from splitfed.store import BUDGET, Budget, Debit
from splitfed.store.accounts import START, chain
from tests.support.budgets import OTHER, anything, debit_of, never, opened, recorded

DEBITS = 4


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """Row 1 opens the account, rows 2 to 5 are debits of rounds 1 to 4."""
    file = tmp_path / BUDGET
    with opened(file) as budget:
        for round in range(1, DEBITS + 1):
            budget.spend(debit_of(round), anything)
    return file


def edit(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def complaint(file: Path) -> str:
    """What opening and reading say."""
    with pytest.raises(LedgerTampered) as caught:
        opened(file)
    with pytest.raises(LedgerTampered):
        Budget.read(file, "chest")
    assert str(file) in caught.value.message
    assert "restore budget.sqlite" in caught.value.cure
    return caught.value.message


@pytest.mark.parametrize(
    "change",
    [
        "time = time + 1",
        "data_id = 'skin'",
        "release = zeroblob(32)",
        "run = zeroblob(32)",
        "round = 9",
        "kind = 'outputs'",
        "root = zeroblob(32)",
        "mode = 'dp-all'",
        "unit = 'patient'",
        "sample_rate = 0.01",
        "noise_multiplier = 9.0",
        "max_grad_norm = 0.1",
        "steps = 1",
        "head = zeroblob(32)",
    ],
)
def test_an_edited_debit_is_found_and_its_row_named(written: Path, change: str) -> None:
    edit(written, f"UPDATE debits SET {change} WHERE number = 3")
    message = complaint(written)
    assert "row 3 (" in message
    assert "was changed" in message


@pytest.mark.parametrize("column", ["time", "round", "sample_rate", "steps", "root", "head"])
def test_a_column_that_cannot_be_read_is_tampering_and_no_crash(written: Path, column: str) -> None:
    edit(written, f"UPDATE debits SET {column} = 'three!' WHERE number = 3")
    assert "row 3 " in complaint(written)


@pytest.mark.parametrize(
    "change", ["digest = x'" + "bb" * 32 + "'", "data_id = 'skin'", "time = 0"]
)
def test_an_edited_account_is_found(written: Path, change: str) -> None:
    edit(written, f"UPDATE accounts SET {change}")
    assert "row 1 (account" in complaint(written)
    with pytest.raises(LedgerTampered):  # also with the digest that the edit wanted to let in
        opened(written, digest=OTHER)


def test_a_removed_debit_is_named(written: Path) -> None:
    edit(written, "DELETE FROM debits WHERE number = 3")
    assert "row 3 is missing before row 4 (round 3, update" in complaint(written)


def test_a_removed_debit_and_the_others_renumbered_is_named(written: Path) -> None:
    edit(
        written,
        "DELETE FROM debits WHERE number = 3",
        "UPDATE debits SET number = 3 WHERE number = 4",
        "UPDATE debits SET number = 4 WHERE number = 5",
    )
    assert "row 3 (round 3, update, data id chest) does not follow row 2" in complaint(written)


def test_a_removed_account_is_named(written: Path) -> None:
    edit(written, "DELETE FROM accounts")
    assert "row 1 is missing before row 2" in complaint(written)


def test_two_debits_in_each_others_place_are_named(written: Path) -> None:
    edit(
        written,
        "UPDATE debits SET number = 99 WHERE number = 2",
        "UPDATE debits SET number = 2 WHERE number = 3",
        "UPDATE debits SET number = 3 WHERE number = 99",
    )
    assert "row 2 (round 2, update, data id chest) does not follow row 1" in complaint(written)


def test_debits_cut_off_at_the_end_are_named(written: Path) -> None:
    edit(written, "DELETE FROM debits WHERE number > 3")
    assert "row 4 to row 5 at the end are missing" in complaint(written)


def test_an_emptied_budget_is_named(written: Path) -> None:
    edit(written, "DELETE FROM debits", "DELETE FROM accounts")
    assert "row 1 to row 5 at the end are missing" in complaint(written)


def columns_of(number: int, previous: bytes, debit: Debit) -> str:
    """A well-made row, as whoever knows the format would write it."""
    head = chain(previous, number, 1.0, "chest", debit)
    values = (number, 1.0, "chest", previous, head, *msgspec.structs.astuple(debit))
    return ",".join(f"x'{v.hex()}'" if isinstance(v, bytes) else repr(v) for v in values)


def last_head(file: Path) -> bytes:
    with closing(sqlite3.connect(file)) as connection:
        (head,) = connection.execute("SELECT head FROM debits ORDER BY number DESC").fetchone()
    return bytes(head)


def test_a_row_added_behind_the_last_is_named(written: Path) -> None:
    edit(written, f"INSERT INTO debits VALUES ({columns_of(6, last_head(written), debit_of(7))})")
    assert "row 6 was added" in complaint(written)


def test_a_row_put_between_is_named(written: Path) -> None:
    edit(
        written,
        "UPDATE debits SET number = number + 100 WHERE number > 3",
        "UPDATE debits SET number = number - 99 WHERE number > 100",
        f"INSERT INTO debits VALUES ({columns_of(4, b'p' * 32, debit_of(7))})",
    )
    assert "row 4 (round 7, update, data id chest) does not follow row 3" in complaint(written)


def test_a_row_with_the_number_of_another_is_named(written: Path) -> None:
    edit(written, f"INSERT INTO debits VALUES ({columns_of(1, START, debit_of(7))})")
    assert "row 1 (round 7, update, data id chest) has the number of another" in complaint(written)


def test_a_second_account_row_for_an_id_is_named(written: Path) -> None:
    edit(
        written,
        "INSERT INTO accounts SELECT 3, time, data_id, previous, head, digest FROM accounts",
    )
    assert "row 3 " in complaint(written)


@pytest.mark.parametrize("value", [(5, b"x" * 32), "text", (5,), None])
def test_a_stored_head_that_is_not_the_last_rows_is_found(written: Path, value: Any) -> None:
    edit(written, f"UPDATE meta SET value = x'{msgspec.msgpack.encode(value).hex()}'")
    # Without any, the file counts as empty: then its first row is one too many.
    named = "row 1 was added" if value is None else "the stored head"
    assert named in complaint(written)


def test_an_edit_beside_an_open_budget_is_found_before_anything_is_spent(written: Path) -> None:
    with opened(written) as budget:
        edit(written, "UPDATE debits SET steps = 1 WHERE number = 3")
        with pytest.raises(LedgerTampered, match="row 3 "):
            budget.spend(debit_of(9), never)
        edit(written, "UPDATE debits SET steps = 10 WHERE number = 3")
        assert budget.verify() == DEBITS + 1


# --- the run folder remembers --------------------------------------------------------------


def test_a_run_folder_whose_releases_were_all_paid_is_accepted(written: Path) -> None:
    unpaid = recorded(9, epsilon=None)
    with opened(written) as budget:
        budget.require([recorded(1), unpaid, recorded(4)])
        with pytest.raises(LedgerTampered, match="round 9"):
            budget.require([recorded(1), recorded(9)])
    with opened(written, "skin", OTHER) as budget:  # the folder began with another data set
        budget.require([recorded(1)])


@pytest.mark.parametrize("loss", ["deleted", "emptied", "put back from an old copy"])
def test_a_budget_that_forgot_what_a_run_folder_sent_is_found(written: Path, loss: str) -> None:
    if loss == "emptied":
        written.write_bytes(b"")
    else:
        written.unlink()
    if loss == "put back from an old copy":
        with opened(written) as budget:
            budget.spend(debit_of(1), anything)
    with (
        opened(written) as budget,
        pytest.raises(LedgerTampered, match="round 2, update") as caught,
    ):
        budget.require([recorded(2)])
    assert str(written) in caught.value.message
    assert "no debit" in caught.value.message


def test_a_debit_for_other_bytes_than_were_sent_is_found(written: Path) -> None:
    with opened(written) as budget, pytest.raises(LedgerTampered, match="its debit is for root"):
        budget.require([recorded(1), recorded(2, root=b"z" * 32)])
