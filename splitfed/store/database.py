"""A SQLite file: one connection, one thread, transactions that join each other."""

from __future__ import annotations

import sqlite3
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from splitfed.errors import Defect, FolderError
from splitfed.store.durable import Disk, storage_errors

NAME = "ledger.sqlite"
_RETRY = 0.01  # seconds
LARGEST_VALUE = 64 << 20
"""Bytes of one row."""


@dataclass(frozen=True)
class Schema:
    """What a kind of file holds.

    Attributes:
        version: the format this splitfed writes, from 1; files of any other are refused.
        tables: the statements that make its tables.
        cure: what helps when the file is damaged.
        wait: seconds to wait for another process's transaction.
    """

    version: int
    tables: tuple[str, ...]
    cure: str
    wait: float


_LEDGER_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    """CREATE TABLE ledger (
        number INTEGER PRIMARY KEY, time REAL NOT NULL, release BLOB NOT NULL UNIQUE,
        round INTEGER NOT NULL, kind TEXT NOT NULL, tensors TEXT NOT NULL, root BLOB NOT NULL,
        bytes INTEGER NOT NULL, epsilon REAL, previous BLOB NOT NULL, head BLOB NOT NULL,
        signature BLOB NOT NULL)""",
    """CREATE TABLE receipts (
        number INTEGER NOT NULL, peer TEXT NOT NULL, counter_signature BLOB NOT NULL,
        PRIMARY KEY (number, peer)) WITHOUT ROWID""",
    """CREATE TABLE witnessed (
        party TEXT NOT NULL, number INTEGER NOT NULL, run BLOB NOT NULL, head BLOB NOT NULL,
        root BLOB NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL,
        signature BLOB NOT NULL, counter_signature BLOB,
        PRIMARY KEY (party, number)) WITHOUT ROWID""",
    """CREATE TABLE inputs (
        round INTEGER NOT NULL, party TEXT NOT NULL, offer BLOB NOT NULL, root BLOB NOT NULL,
        reason TEXT NOT NULL, PRIMARY KEY (round, party))""",
    """CREATE TABLE votes (
        round INTEGER NOT NULL, view INTEGER NOT NULL, party TEXT NOT NULL, body BLOB NOT NULL,
        signature BLOB NOT NULL, PRIMARY KEY (round, view, party))""",
    """CREATE TABLE statements (
        view INTEGER NOT NULL, round INTEGER NOT NULL, party TEXT NOT NULL, body BLOB NOT NULL,
        signature BLOB NOT NULL, PRIMARY KEY (view, party))""",
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
LEDGER = Schema(
    version=3,
    tables=_LEDGER_TABLES,
    cure="restore the run folder from a backup, or begin anew with another --out folder",
    wait=5.0,
)


class Database:
    """One connection to one file.

    Every method must be called from the thread that made the object: the round engine's.
    Writing goes through :meth:`transaction`; with WAL and ``synchronous=FULL`` a
    transaction is durable once its ``with`` block is left.

    Args:
        path: the SQLite file.
        disk: where commits go, see :class:`splitfed.store.durable.Disk`.
        schema: what the file holds.
        read_only: open a file that another process may be writing; nothing is changed.

    Raises:
        FolderError: here and in every method: the file is damaged, of a newer splitfed,
            locked for longer than ``schema.wait``, or the disk is full or refuses.
    """

    def __init__(
        self, path: Path, disk: Disk, schema: Schema = LEDGER, *, read_only: bool = False
    ) -> None:
        self.path = path
        self._disk = disk
        self._schema = schema
        self._read_only = read_only
        self._owner = threading.get_ident()
        self._depth = 0
        self._broken = False
        self._afterwards: list[Callable[[], None]] = []
        connect = _connect_to_read if read_only else _connect
        with self._errors():
            self._refuse_pipes()
            self._connection = connect(path, schema.wait)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """All rows of a query."""
        self._check_thread()
        with self._errors():
            return self._connection.execute(statement, values).fetchall()

    def row(self, statement: str, *values: Any) -> Any | None:
        """The first row of a query, or None."""
        self._check_thread()
        with self._errors():
            return self._connection.execute(statement, values).fetchone()

    def write(self, statement: str, *values: Any) -> int:
        """Change rows inside an open transaction; returns how many changed."""
        self._check_thread()
        if not self._depth:
            raise Defect(f"a write outside a transaction: {statement}")
        with self._errors():
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
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
        self._depth, self._broken, self._afterwards = 1, False, []
        try:
            yield
            if self._broken:
                raise Defect("a step inside a batch failed and the batch was not given up")
            with self._errors():
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

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All queries inside see one moment, whatever other processes write meanwhile."""
        self._check_thread()
        if self._connection.in_transaction:
            yield
            return
        with self._errors():
            self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.rollback()

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run ``action`` once the open transaction is durable; never if it is rolled back."""
        if not self._depth:
            raise Defect("an action was to follow a transaction, and none is open")
        self._afterwards.append(action)

    def meta(self, key: str, kind: Any = Any) -> Any | None:
        """A value stored by :meth:`set_meta`, as ``kind``, or None."""
        row = self.row("SELECT value FROM meta WHERE key = ?", key)
        try:
            return None if row is None else msgspec.msgpack.decode(row[0], type=kind)
        except (msgspec.MsgspecError, TypeError, RecursionError) as error:
            raise self.damaged(f"meta {key!r}: {error}") from None

    def damaged(self, what: str) -> FolderError:
        """The error for a value that splitfed never wrote."""
        return FolderError(f"{self.path} is damaged: {what}", self._schema.cure)

    def set_meta(self, key: str, value: Any) -> None:
        """Store a msgpack value under ``key`` inside an open transaction."""
        packed = msgspec.msgpack.encode(value)
        self.write("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, packed)

    def create(self) -> None:
        """Make the tables inside an open transaction."""
        for statement in self._schema.tables:
            self.write(statement)
        self.write(f"PRAGMA user_version = {self._schema.version}")

    @property
    def exists(self) -> bool:
        """Whether the tables are there."""
        row = self.row("PRAGMA user_version")
        return row is not None and row[0] > 0

    def close(self) -> None:
        """Close the connection; an open transaction is rolled back. Again: does nothing."""
        self._check_thread()
        self._connection.close()

    def _refuse_pipes(self) -> None:
        """SQLite opens what lies there under these names, and waits for ever on a pipe."""
        for suffix in ("", "-journal", "-wal", "-shm"):
            path = self.path.with_name(self.path.name + suffix)
            try:
                mode = path.stat().st_mode
            except FileNotFoundError:
                continue
            if not stat.S_ISREG(mode):
                raise FolderError(f"{path} is no plain file", self._schema.cure)

    def _prepare(self) -> None:
        run = self._connection.execute
        if not self._read_only:
            self._begin_log()
            run("PRAGMA synchronous = FULL")
        # The file may be somebody else's: its schema may call nothing, and no value is larger
        # than any that splitfed writes.
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA cell_size_check = ON")
        self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
        version, known = run("PRAGMA user_version").fetchone()[0], self._schema.version
        if version > known:
            raise FolderError(
                f"{self.path} was written by a newer splitfed (format {version}, "
                f"this one knows {known})",
                "install the newer splitfed",
            )
        if 0 < version < known:
            raise FolderError(
                f"{self.path} was written by an older splitfed (format {version}, this one "
                f"writes {known})",
                "read it or finish it with the splitfed that wrote it, or begin anew with "
                "another --out folder",
            )

        if version:
            self._refuse_other_tables()

    def _refuse_other_tables(self) -> None:
        """A view, a trigger or a computed column would answer and act in a table's place."""
        rows = self._connection.execute("SELECT type, name, sql FROM sqlite_schema").fetchall()
        own = set(self._schema.tables)
        for kind, name, text in rows:
            if text is not None and text not in own:
                raise self.damaged(f"it holds a {kind} {name!r} that splitfed never makes")
        if len([text for _, _, text in rows if text is not None]) != len(own):
            raise self.damaged("a table is missing")

    def _begin_log(self) -> None:
        """Switch to WAL. Where two processes make one file, SQLite does not wait by itself."""
        deadline = time.monotonic() + self._schema.wait
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not _says(error, sqlite3.SQLITE_BUSY) or time.monotonic() >= deadline:
                    raise
            time.sleep(_RETRY)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """:func:`storage_errors`, with what helps this kind of file."""
        with storage_errors(self.path):
            try:
                yield
            except UnicodeDecodeError as error:  # SQLite quotes damaged bytes in its own message
                raise self.damaged(f"its text cannot be read: {error}") from error
            except sqlite3.DatabaseError as error:
                if _says(error, sqlite3.SQLITE_BUSY):
                    raise FolderError(
                        f"{self.path} has been locked by another process for "
                        f"{self._schema.wait:g} s",
                        "find the process that has it open, let it end, and try again",
                    ) from error
                if _says(error, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                    damaged = f"{self.path} is damaged: {error}"
                    raise FolderError(damaged, self._schema.cure) from error
                raise

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
                "but belongs to the thread that opened it"
            )


def _says(error: sqlite3.Error, *codes: int) -> bool:
    """Whether the error has one of these primary codes."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes


def _connect(path: Path, wait: float) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=wait)


def _connect_to_read(path: Path, wait: float) -> sqlite3.Connection:
    """Open for reading, also on a medium where SQLite cannot place its shared-memory file."""
    name = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        connection = sqlite3.connect(name, uri=True, isolation_level=None, timeout=wait)
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
