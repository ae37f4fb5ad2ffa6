"""Run folders from others: a database that was made by hand is damage, and nothing in it acts."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from splitfed.errors import FolderError
from splitfed.store import BUDGET, Budget, RunFolder
from tests.support.budgets import anything, debit_of, opened
from tests.support.commands import answer_to
from tests.support.folders import close, new_folder
from tests.support.traps import (
    MIB,
    frugal,
    silent,
)

# --- pipes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ledger.sqlite-journal", "ledger.sqlite-wal", "lock"])
def test_nobody_waits_for_ever_on_a_pipe_in_a_run_folder(tmp_path: Path, name: str) -> None:
    new_folder(tmp_path / "a").close()
    pipe = tmp_path / "a" / name
    pipe.unlink(missing_ok=True)
    silent(pipe)
    told: list[str] = []
    looker = threading.Thread(
        target=lambda: told.append(answer_to("status", pipe.parent).told), daemon=True
    )
    looker.start()
    looker.join(20.0)
    if looker.is_alive():
        os.close(os.open(pipe, os.O_RDWR))  # wakes it: it must not outlive this test
    assert told, "it waits"
    assert ("process  not running" if name == "lock" else f"{name} is no plain file") in told[0]


# --- databases -----------------------------------------------------------------------------------

OTHER_TABLES = {
    "a view in a table's place": (
        "ALTER TABLE closed RENAME TO hidden",
        "CREATE VIEW closed AS SELECT * FROM hidden",
    ),
    "a trigger": ("CREATE TRIGGER thief AFTER INSERT ON meta BEGIN DELETE FROM ledger; END",),
    "an index": ("CREATE INDEX slow ON meta (value)",),
    "one more table": ("CREATE TABLE more (a, b AS (a || a))",),
    "a table gone": ("DROP TABLE votes",),
    "a computed column": (
        "DROP TABLE evidence",
        "CREATE TABLE evidence (round INTEGER NOT NULL, party TEXT AS (hex(body)), "
        "body BLOB NOT NULL, signature BLOB NOT NULL)",
    ),
}


@pytest.mark.parametrize("statements", OTHER_TABLES.values(), ids=OTHER_TABLES)
def test_a_ledger_with_other_tables_is_refused_for_reading_and_for_running(
    tmp_path: Path, statements: tuple[str, ...]
) -> None:
    new_folder(tmp_path / "a").close()
    edit(tmp_path / "a" / "ledger.sqlite", *statements)
    with pytest.raises(FolderError, match=r"ledger\.sqlite is damaged"):
        RunFolder.read_only(tmp_path / "a")
    with pytest.raises(FolderError, match=r"ledger\.sqlite is damaged"):
        new_folder(tmp_path / "a")


def test_a_budget_with_a_trigger_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / BUDGET) as budget:
        budget.spend(debit_of(1), anything)
    edit(
        tmp_path / BUDGET,
        "CREATE TRIGGER free AFTER INSERT ON debits BEGIN DELETE FROM debits; END",
    )
    with pytest.raises(FolderError, match="trigger 'free' that splitfed never makes"):
        opened(tmp_path / BUDGET)
    with pytest.raises(FolderError, match="trigger 'free'"):
        Budget.read(tmp_path / BUDGET, "chest")


META = {
    "no msgpack": b"\xc1",
    "absurd length": b"\xdd\xff\xff\xff\xff",
    "nested": b"\x91" * 100_000,
    "another type": b"\xa3abc",
    "a list": b"\x93\x01\x02\x03",
    "text": "abc",
    "a number": 7,
    "an empty table": b"\x80",
}


@pytest.mark.parametrize("value", META.values(), ids=META)
@pytest.mark.parametrize("key", ["folder", "run", "contracts", "ledger", "boot", "ending"])
def test_a_value_that_splitfed_never_wrote_is_damage(tmp_path: Path, key: str, value: Any) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
    edit(
        tmp_path / "a" / "ledger.sqlite", ("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)
    )
    if (key, value) == ("ending", b"\x80"):
        return  # an empty table is one
    with pytest.raises(FolderError, match=r"ledger\.sqlite is damaged"), frugal():
        look_at_all(tmp_path / "a")


CELLS = {
    "outcome": "UPDATE closed SET outcome = 'lost'",
    "digest": "UPDATE closed SET digest = 'abc'",
    "history is a number": "UPDATE closed SET history = 7",
    "history is no JSON": "UPDATE closed SET history = '{'",
    "history is a list": "UPDATE closed SET history = '[1]'",
    "history is no text": "UPDATE closed SET history = CAST(x'fffe' AS TEXT)",
    "a checkpoint elsewhere": "UPDATE checkpoints SET name = '../outside'",
    "a checkpoint of no name": "UPDATE checkpoints SET name = 5",
    "no agreement": "DELETE FROM meta WHERE key = 'contracts'",
    "no owner": "DELETE FROM meta WHERE key = 'folder'",
    "a large value": "INSERT OR REPLACE INTO meta VALUES ('boot', zeroblob(100000000))",
}


@pytest.mark.parametrize("statement", CELLS.values(), ids=CELLS)
def test_a_cell_that_splitfed_never_wrote_is_damage(tmp_path: Path, statement: str) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)
    edit(tmp_path / "a" / "ledger.sqlite", statement)
    with pytest.raises(FolderError, match=r"ledger\.sqlite"), frugal(200 * MIB):
        look_at_all(tmp_path / "a")


def test_damage_that_sqlite_itself_quotes_is_damage(tmp_path: Path) -> None:
    """Found by fuzzing: SQLite's message held bytes that are no text, and Python gave up on it."""
    new_folder(tmp_path / "a").close()
    path = tmp_path / "a" / "ledger.sqlite"
    content = path.read_bytes()
    assert b"CREATE TABLE votes" in content
    path.write_bytes(content.replace(b"CREATE TABLE votes (", b"CREATE TABLE votes \xff"))
    for read in (lambda: RunFolder.read_only(path.parent), lambda: new_folder(path.parent)):
        with pytest.raises(FolderError, match=r"ledger\.sqlite is damaged"):
            read()


def look_at_all(path: Path) -> None:
    """Everything that a command reads of somebody's run folder."""
    with RunFolder.read_only(path) as view:
        view.verify()
        for name in ("boot", "contracts", "contract", "run", "peer_folders", "ending", "confirmed"):
            getattr(view, name)
        view.closed(), view.history(), view.checkpoint(), view.evidence(), view.own_vote(1)
        view.inputs(1), view.status()


def edit(file: Path, *statements: str | tuple[Any, ...]) -> None:
    with closing(sqlite3.connect(file)) as connection, connection:
        for statement in statements:
            text, *values = (statement,) if isinstance(statement, str) else statement
            connection.execute(text, values)


SAID: dict[str, Any] = {
    "schema": 1, "phase": "training", "round": 2, "rounds": 3, "step": 1, "steps": 9,
    "waiting": {"for": "update", "of": ["b"], "seconds": 3, "since": "now"},
}  # fmt: skip


ODD = (None, 7, -1e308, "x\x1b[31m", [[]], {"a": {}}, 2**63, True)


def test_no_status_ends_a_command_with_a_traceback(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        close(folder, 1)  # with a history that lacks most of its keys
    for key in (*SAID, "ended", "peers", "updated_at", "monotonic_s", "epsilon"):
        for value in ODD:
            (tmp_path / "a" / "status.json").write_text(json.dumps({**SAID, key: value}))
            answer = answer_to("status", tmp_path / "a")
            assert answer.code in (0, 2), answer.told
            assert "\x1b" not in answer.told
        assert "\x1b" not in answer_to("status", tmp_path / "a", "--json").told
