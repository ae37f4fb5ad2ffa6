"""The rows of ``budget.sqlite``: accounts and their debits, in one hash chain.

The head after a row is BLAKE3(domain ‖ head after the row before it ‖ msgpack of the row's
fields); the rows of all accounts are numbered through, and opening an account is a row too.
Whoever changes, removes, inserts or swaps a row breaks the chain at that row. Whoever cuts
off the last rows must also change the stored head; whoever does both, or puts back an older
file, is found out by the run folders, see :meth:`splitfed.store.Budget.require`.
"""

from __future__ import annotations

from typing import Any

import blake3
import msgspec

from splitfed.errors import FolderError, LedgerTampered
from splitfed.store.database import Database, Schema
from splitfed.store.rows import Debit, cut_off

CURE = (
    "restore budget.sqlite from a backup; without it splitfed cannot know what was spent on "
    "these data"
)
_TABLES = ("accounts", "debits", "meta")
BUDGET_SCHEMA = Schema(
    version=1,
    tables=(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        """CREATE TABLE accounts (
            number INTEGER PRIMARY KEY, time REAL NOT NULL, data_id TEXT NOT NULL,
            previous BLOB NOT NULL, head BLOB NOT NULL, digest BLOB NOT NULL)""",
        """CREATE TABLE debits (
            number INTEGER PRIMARY KEY, time REAL NOT NULL, data_id TEXT NOT NULL,
            previous BLOB NOT NULL, head BLOB NOT NULL, release BLOB NOT NULL, run BLOB NOT NULL,
            round INTEGER NOT NULL, kind TEXT NOT NULL, root BLOB NOT NULL, mode TEXT NOT NULL,
            unit TEXT NOT NULL, sample_rate REAL NOT NULL, noise_multiplier REAL NOT NULL,
            max_grad_norm REAL NOT NULL, steps INTEGER NOT NULL)""",
    ),
    cure=CURE,
    wait=30.0,
)

_DOMAIN = b"splitfed budget v1\0"
START = blake3.blake3(_DOMAIN).digest()
"""The head of an empty file."""

_CHAIN = "chain"
_PLACE = "number, time, data_id, previous, head"
_FIELDS = Debit.__struct_fields__


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One row in its place in the chain.

    Attributes:
        number: place in the file, from 1 without gaps, over all accounts.
        time: seconds since 1970 when it was written, by this machine's clock.
        data_id: the account.
        digest: of the data set, 32 bytes, where the row opens an account; otherwise None.
        debit: what was spent, where the row is a debit; otherwise None.
        previous: head of the chain before this row, 32 bytes.
        head: head of the chain with this row, 32 bytes.
    """

    number: int
    time: float
    data_id: str
    digest: bytes | None = None
    debit: Debit | None = None
    previous: bytes
    head: bytes

    def __str__(self) -> str:
        what = f"round {self.debit.round}, {self.debit.kind}" if self.debit else "account"
        return f"row {self.number} ({what}, data id {self.data_id})"


def chain(previous: bytes, number: int, time: float, data_id: str, content: bytes | Debit) -> bytes:
    """The head after a row, 32 bytes; ``content`` is the digest of an account, or a debit."""
    fields: tuple[Any, ...] = (
        ("debit", *msgspec.structs.astuple(content))
        if isinstance(content, Debit)
        else ("account", content)
    )
    packed = msgspec.msgpack.encode((number, time, data_id, *fields))
    return blake3.blake3(_DOMAIN + previous + packed).digest()


class Accounts:
    """Append and read the rows of one budget file; none is handed out unverified.

    Args:
        database: the file, opened with :data:`BUDGET_SCHEMA`.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def exist(self) -> bool:
        """Whether the tables are there.

        Raises:
            FolderError: others are, or not all of them.
        """
        with self._database.snapshot():
            found = self._database.rows(
                "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
            )
            made = self._database.exists
        names = tuple(name for (name,) in found)
        if names == (_TABLES if made else ()):
            return made
        raise FolderError(
            f"{self._database.path} is no privacy budget: it holds the tables "
            f"{', '.join(names) or '(none)'} instead of {', '.join(_TABLES)}",
            CURE,
        )

    def append(self, time: float, data_id: str, content: bytes | Debit) -> None:
        """Add one row inside an open transaction: an account's digest, or a debit."""
        number, previous = self._last()
        number += 1
        head = chain(previous, number, time, data_id, content)
        if isinstance(content, Debit):
            table, values = "debits", msgspec.structs.astuple(content)
        else:
            table, values = "accounts", (content,)
        row = (number, time, data_id, previous, head, *values)
        self._database.write(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", *row)
        self._database.set_meta(_CHAIN, (number, head))

    def touch(self) -> None:
        """Make the open transaction write something, so that its commit syncs the file.

        A process killed in the middle of a commit can leave rows that the next one reads
        although they were never synced. A commit with nothing in it would not sync them.
        """
        self._database.set_meta(_CHAIN, self._last())

    def entries(self) -> tuple[Entry, ...]:
        """Every row in order, the whole chain recomputed.

        Raises:
            LedgerTampered: naming the first row that was changed, removed, inserted or
                moved, or the rows cut off at the end.
        """
        with self._database.snapshot():
            accounts = self._database.rows(f"SELECT {_PLACE}, digest FROM accounts")
            debits = self._database.rows(f"SELECT {_PLACE}, {', '.join(_FIELDS)} FROM debits")
            count, last = self._last()
        rows = [self._entry(row, row[5], None) for row in accounts]
        rows += [self._entry(row, None, dict(zip(_FIELDS, row[5:], strict=True))) for row in debits]
        rows.sort(key=lambda entry: entry.number)
        head, expected = START, 1
        for entry in rows:
            if entry.number > expected:
                raise self._tampered(f"row {expected} is missing before {entry}")
            if entry.number < expected:
                raise self._tampered(f"{entry} has the number of another row: it was put there")
            if entry.previous != head:
                raise self._tampered(
                    f"{entry} does not follow row {expected - 1}: it was put there"
                )
            content = entry.debit or entry.digest or b""
            if chain(head, entry.number, entry.time, entry.data_id, content) != entry.head:
                raise self._tampered(f"{entry} was changed after it was written")
            head, expected = entry.head, expected + 1
        if expected <= count:
            raise self._tampered(cut_off(expected, count))
        if expected - 1 > count:
            raise self._tampered(f"row {count + 1} was added by something else than splitfed")
        if head != last:
            raise self._tampered(f"the stored head is not that of row {count}")
        return tuple(rows)

    def _last(self) -> tuple[int, bytes]:
        """Number and head of the last row, as stored."""
        try:
            stored = self._database.meta(_CHAIN)
            return (0, START) if stored is None else msgspec.convert(stored, tuple[int, bytes])
        except (msgspec.MsgspecError, TypeError) as error:
            raise self._tampered(f"the stored head cannot be read: {error}") from error

    def _entry(self, row: Any, digest: Any, debit: Any) -> Entry:
        place = dict(zip(_PLACE.split(", "), row[:5], strict=True))
        try:
            return msgspec.convert({**place, "digest": digest, "debit": debit}, Entry)
        except msgspec.MsgspecError as error:
            raise self._tampered(f"row {row[0]} cannot be read: {error}") from error

    def _tampered(self, what: str) -> LedgerTampered:
        return tampered(f"{self._database.path} was tampered with: {what}")


def tampered(message: str) -> LedgerTampered:
    """The error for a budget file that is not what splitfed wrote."""
    return LedgerTampered(message, CURE)
