"""The file of a privacy budget: whose it is, what is refused in its place, reading it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from splitfed.store import BUDGET, Budget, Disk
from tests.support.budgets import anything, debit_of, opened
from tests.support.folders import FullDisk, new_folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / BUDGET


def edit(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute(statement)


def test_the_file_is_closed_to_other_users(file: Path) -> None:
    mask = os.umask(0)
    try:
        with opened(file) as budget:
            budget.spend(debit_of(1), anything)
            files = sorted(file.parent.iterdir())
            assert [path.name for path in files] == [BUDGET, f"{BUDGET}-shm", f"{BUDGET}-wal"]
            assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
        file.chmod(0o644)  # as a copy from a backup may have it
        opened(file).close()
        assert file.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(mask)


def test_commits_are_synced_through_the_write_ahead_log(file: Path) -> None:
    with opened(file) as budget:
        assert budget._database.row("PRAGMA journal_mode") == ("wal",)
        assert budget._database.row("PRAGMA synchronous") == (2,)


def make_directory(file: Path) -> None:
    file.mkdir()


def make_garbage(file: Path) -> None:
    file.write_bytes(b"garbage " * 1000)


def make_newer(file: Path) -> None:
    opened(file).close()
    edit(file, "PRAGMA user_version = 2")


def make_ledger(file: Path) -> None:
    new_folder(file.parent / "a").close()
    (file.parent / "a" / "ledger.sqlite").rename(file)


def make_foreign(file: Path) -> None:
    edit(file, "CREATE TABLE meta (key, value)")


def make_unfinished(file: Path) -> None:
    """A full budget that says it has no tables yet must not be begun again."""
    opened(file).close()
    edit(file, "PRAGMA user_version = 0")


def make_incomplete(file: Path) -> None:
    opened(file).close()
    edit(file, "DROP TABLE debits")


@pytest.mark.parametrize(
    "make",
    [
        make_directory,
        make_garbage,
        make_newer,
        make_ledger,
        make_foreign,
        make_unfinished,
        make_incomplete,
    ],
)
def test_what_is_no_budget_is_refused_by_name(file: Path, make: Callable[[Path], None]) -> None:
    make(file)
    for use in (lambda: opened(file), lambda: Budget.read(file, "chest")):
        with pytest.raises(FolderError) as caught:
            use()
        assert str(file) in caught.value.message
        assert "begin anew" not in caught.value.cure  # it would begin at zero


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_budget_is_refused(file: Path) -> None:
    opened(file).close()
    file.chmod(0)
    with pytest.raises(FolderError, match=BUDGET):
        opened(file)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="No such file"):
        opened(tmp_path / "none" / BUDGET)


def test_a_file_that_another_process_is_making_is_waited_for(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite says "locked" at once here, however long it was told to wait."""
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr("splitfed.store.database.time.sleep", lambda _: other.rollback())
        opened(file).close()
        assert not other.in_transaction


def test_a_failed_opening_leaves_the_file_free(file: Path) -> None:
    opened(file).close()
    with pytest.raises(FolderError, match="no space"):
        opened(file, disk=FullDisk(0))
    opened(file, disk=Disk()).close()
    assert not file.with_name(f"{BUDGET}-wal").exists()


def test_reading_where_there_is_nothing_finds_and_makes_nothing(tmp_path: Path, file: Path) -> None:
    assert Budget.read(file, "chest") == ()
    assert Budget.read(tmp_path / "none" / BUDGET, "chest") == ()
    assert list(tmp_path.iterdir()) == []
    file.write_bytes(b"")  # its maker was killed
    assert Budget.read(file, "chest") == ()


def test_reading_sees_what_was_spent_beside_a_run_and_after_it(file: Path) -> None:
    with opened(file) as budget:
        budget.spend(debit_of(1), anything)
        assert Budget.read(file, "chest") == (debit_of(1),)
    assert Budget.read(file, "chest") == (debit_of(1),)
    assert Budget.read(file, "skin") == ()


def test_spending_imports_no_torch(file: Path) -> None:
    """`splitfed plan` must answer at once."""
    code = (
        "import sys; from pathlib import Path; from splitfed.store import Budget\n"
        "with Budget.open(Path(sys.argv[1]), data_id='a', data_digest=bytes(32)) as budget:\n"
        "    budget.debits()\n"
        "Budget.read(Path(sys.argv[1]), 'a')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == 0
