"""``ledger.sqlite``: one connection, one thread, transactions that join each other."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from splitfed.errors import Defect, FolderError
from splitfed.store.durable import Disk, storage_errors

NAME = "ledger.sqlite"
VERSION = 1

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE ledger (
        number INTEGER PRIMARY KEY, time REAL NOT NULL, release BLOB NOT NULL UNIQUE,
        round INTEGER NOT NULL, kind TEXT NOT NULL, tensors TEXT NOT NULL, root BLOB NOT NULL,
        bytes INTEGER NOT NULL, epsilon REAL, previous BLOB NOT NULL, head BLOB NOT NULL,
        signature BLOB)""",
    """CREATE TABLE receipts (
        number INTEGER NOT NULL, peer TEXT NOT NULL, counter_signature BLOB,
        PRIMARY KEY (number, peer)) WITHOUT ROWID""",
    """CREATE TABLE inputs (
        round INTEGER NOT NULL, party TEXT NOT NULL, offer BLOB NOT NULL, root BLOB NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (round, party))""",
    """CREATE TABLE votes (
        round INTEGER NOT NULL, view INTEGER NOT NULL, party TEXT NOT NULL, body BLOB NOT NULL,
        signature BLOB NOT NULL, PRIMARY KEY (round, view, party))""",
    """CREATE TABLE evidence (
        round INTEGER NOT NULL, party TEXT NOT NULL, body BLOB NOT NULL,
        signature BLOB NOT NULL, PRIMARY KEY (round, party, body))""",
    """CREATE TABLE closed (
        round INTEGER PRIMARY KEY, outcome TEXT NOT NULL, digest BLOB NOT NULL,
        history TEXT NOT NULL)""",
    """CREATE TABLE checkpoints (
        number INTEGER PRIMARY KEY, round INTEGER NOT NULL, name TEXT NOT NULL,
        digest BLOB NOT NULL)""",
)


class Database:
    """The folder's only connection to its ledger file.

    Every method must be called from the thread that made the object: the round engine's.
    Writing goes through :meth:`transaction`; with WAL and ``synchronous=FULL`` a
    transaction is durable once its ``with`` block is left.

    Args:
        path: the SQLite file.
        disk: where commits go, see :class:`splitfed.store.durable.Disk`.
        read_only: open a file that another process may be writing; nothing is changed.
    """

    def __init__(self, path: Path, disk: Disk, *, read_only: bool = False) -> None:
        self.path = path
        self._disk = disk
        self._read_only = read_only
        self._owner = threading.get_ident()
        self._depth = 0
        self._broken = False
        self._afterwards: list[Callable[[], None]] = []
        with storage_errors(path):
            self._connection = _connect_to_read(path) if read_only else _connect(path)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        self._check_thread()
        with storage_errors(self.path):
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> Any | None:
        """The first row of a query, or None."""
        self._check_thread()
        with storage_errors(self.path):
            return self._connection.execute(statement, values).fetchone()

    def write(self, statement: str, *values: Any) -> int:
        """Change rows inside an open transaction; returns how many changed."""
        self._check_thread()
        if not self._depth:
            raise Defect(f"a write outside a transaction: {statement}")
        with storage_errors(self.path):
            return self._connection.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written inside becomes durable together, or not at all.

        An inner transaction joins the outer one. When an inner one fails, so does the
        outer one, even if the exception was caught on the way: half of it is missing.
        """
        self._check_thread()
        if self._read_only:
            raise Defect(f"{self.path} was opened for reading only")
        if self._depth:
            with self._inner():
                yield
            return
        with storage_errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
        self._depth, self._broken, self._afterwards = 1, False, []
        try:
            yield
            if self._broken:
                raise Defect("a step inside a batch failed and the batch was not given up")
            with storage_errors(self.path):
                self._disk.commit(self._connection)
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._afterwards = []
            raise
        finally:
            self._depth = 0
        for action in self._afterwards:
            action()

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run ``action`` once the open transaction is durable; never if it is rolled back."""
        if not self._depth:
            raise Defect("an action was to follow a transaction, and none is open")
        self._afterwards.append(action)

    def meta(self, key: str) -> Any | None:
        """A value stored by :meth:`set_meta`, or None."""
        row = self.row("SELECT value FROM meta WHERE key = ?", key)
        return None if row is None else msgspec.msgpack.decode(row[0])

    def set_meta(self, key: str, value: Any) -> None:
        """Store a msgpack value under ``key`` inside an open transaction."""
        packed = msgspec.msgpack.encode(value)
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, packed)

    def create(self) -> None:
        """Make the tables inside an open transaction."""
        for statement in _SCHEMA:
            self.write(statement)
        self.write(f"PRAGMA user_version = {VERSION}")

    @property
    def exists(self) -> bool:
        """Whether the tables are there."""
        row = self.row("PRAGMA user_version")
        return row is not None and row[0] > 0

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back. Again: does nothing."""
        self._check_thread()
        self._connection.close()

    def _prepare(self) -> None:
        run = self._connection.execute
        if not self._read_only:
            run("PRAGMA journal_mode = WAL")
            run("PRAGMA synchronous = FULL")
        version = run("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise FolderError(
                f"{self.path} was written by a newer splitfed (format {version}, "
                f"this one knows {VERSION})",
                "install the newer splitfed",
            )

    @contextmanager
    def _inner(self) -> Iterator[None]:
        self._depth += 1
        try:
            yield
        except BaseException:
            self._broken = True
            raise
        finally:
            self._depth -= 1

    def _check_thread(self) -> None:
        if threading.get_ident() != self._owner:
            raise Defect(
                f"{self.path} is used from thread {threading.current_thread().name}, "
                "but belongs to the thread that opened the run folder"
            )


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=5.0)


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Open for reading, also on a medium where SQLite cannot place its shared-memory file."""
    name = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        connection = sqlite3.connect(name, uri=True, isolation_level=None, timeout=5.0)
        try:
            connection.execute("SELECT count(*) FROM sqlite_schema")
        except BaseException:
            connection.close()
            raise
        return connection
    except sqlite3.OperationalError:
        log = path.with_name(f"{path.name}-wal")
        if log.exists() and log.stat().st_size:
            raise  # the newest rows are in that file: leaving them out would be a lie
    return sqlite3.connect(f"{name}&immutable=1", uri=True, isolation_level=None)
