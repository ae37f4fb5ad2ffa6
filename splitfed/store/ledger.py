"""The egress ledger: a hash chain over everything that ever left this party.

The head after a row is BLAKE3(domain ‖ head after the row before it ‖ msgpack of the row's
fields), and the head before row 1 is made of the folder's id and the party's name, so a
ledger cannot be moved into another folder. Whoever changes, removes, inserts or swaps a row
breaks the chain at that row. Whoever cuts off the last rows must also change the stored
head; that shows when a peer names a later head than the folder has.

Each row bears the party's signature and the counter-signatures of the peers that hold its
payload (:mod:`splitfed.entries`). Whoever makes the whole chain anew therefore needs the
party's key, and then still differs from what the peers signed and keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import blake3
import msgspec

from splitfed.errors import Defect, LedgerTampered
from splitfed.store.database import Database
from splitfed.store.rows import LedgerEntry, ReleaseRow, cut_off
from splitfed.types import TensorSpec

_DOMAIN = b"splitfed ledger v1\0"
Sign = Callable[[int, bytes], bytes]
"""``sign(number, head)``: the party's signature of a new row in this place, 64 bytes."""

_COLUMNS = (
    "number, time, release, round, kind, tensors, root, bytes, epsilon, previous, head, signature"
)
_CURE = (
    "restore the run folder from a backup, or begin anew with another --out folder; "
    "under differential privacy ask first what the missing rows had spent"
)


def genesis(folder_id: bytes, party: str) -> bytes:
    """The head of an empty ledger, 32 bytes."""
    return blake3.blake3(_DOMAIN + msgspec.msgpack.encode((folder_id, party))).digest()


def chain(previous: bytes, number: int, time: float, row: ReleaseRow) -> bytes:
    """The head after ``row``, 32 bytes."""
    fields = (
        number, time, row.release, row.round, row.kind, row.tensors, row.root, row.size,
        row.epsilon,
    )  # fmt: skip
    return blake3.blake3(_DOMAIN + previous + msgspec.msgpack.encode(fields)).digest()


class Ledger:
    """Append, read and verify the rows of one folder's ledger.

    Args:
        database: the folder's database.
        start: :func:`genesis` of the folder.
        clock: seconds since 1970, for the rows' time.
    """

    def __init__(
        self, database: Database, start: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._start = start
        self._clock = clock

    def append(self, row: ReleaseRow, sign: Sign) -> LedgerEntry:
        """Record a release durably, signed; send only afterwards.

        Appending the same release again changes nothing and returns what is recorded.

        Raises:
            Defect: a release of this name is recorded with other fields: its stored bytes
                must be sent again, never new ones.
        """
        if row.epsilon is not None:
            row = msgspec.structs.replace(row, epsilon=float(row.epsilon))
        with self._database.transaction():
            found = self.find(row.release)
            if found is not None:
                if found.row != row:
                    raise Defect(
                        f"round {row.round}: the {row.kind} with root {row.root.hex()} was to be "
                        f"recorded, but root {found.row.root.hex()} already is"
                    )
                return found
            number, previous = self._count() + 1, self.head()
            now = float(self._clock())
            head = chain(previous, number, now, row)
            signature = sign(number, head)
            self._database.write(
                f"INSERT INTO ledger ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                number, now, row.release, row.round, row.kind,
                msgspec.json.encode(row.tensors).decode(), row.root, row.size, row.epsilon,
                previous, head, signature,
            )  # fmt: skip
            self._database.set_meta("ledger", (number, head))
        return LedgerEntry(
            number=number, time=now, row=row, previous=previous, head=head, signature=signature
        )

    def acknowledge(self, release: bytes, peer: str, counter_signature: bytes) -> None:
        """Note durably that ``peer`` holds the payload of ``release``; the first
        counter-signature of a peer stays. The caller has verified it.

        Raises:
            Defect: no such release.
        """
        found = self.find(release)
        if found is None:
            raise Defect(f"{peer} acknowledged release {release.hex()}, which is not recorded")
        if peer not in found.acknowledged:
            with self._database.transaction():
                self._database.write(
                    "INSERT INTO receipts VALUES (?, ?, ?)", found.number, peer, counter_signature
                )

    def find(self, release: bytes) -> LedgerEntry | None:
        """The row of this release, or None: then nothing of it has left."""
        return self._one("release", release)

    def at(self, number: int) -> LedgerEntry | None:
        """The row in this place, or None."""
        return self._one("number", number)

    def last(self) -> LedgerEntry | None:
        """The newest row, or None while nothing has left."""
        return self.at(len(self))

    def rows(self) -> tuple[LedgerEntry, ...]:
        """Every row in order.

        Raises:
            LedgerTampered: a row's columns cannot be read as what they must be.
        """
        rows = self._database.rows(f"SELECT {_COLUMNS} FROM ledger ORDER BY number")
        return tuple(self._entry(row) for row in rows)

    def kinds(self) -> list[str]:
        """The kind of every row in order, without reading the rest: asked for in every round."""
        found = self._database.rows("SELECT kind FROM ledger ORDER BY number")
        return [str(kind) for (kind,) in found]

    def __len__(self) -> int:
        """The number of rows: everything that ever left."""
        return self._count()

    def head(self) -> bytes:
        """The head of the whole chain, 32 bytes."""
        stored = self._database.meta("ledger", tuple[int, bytes])
        return self._start if stored is None else bytes(stored[1])

    def verify(self) -> int:
        """Recompute the chain and return the number of rows.

        Raises:
            LedgerTampered: naming the first row that was changed, removed, inserted or
                moved, or the rows cut off at the end.
        """
        head, expected = self._start, 1
        for entry in self.rows():
            if entry.number != expected:
                raise _tampered(f"row {expected} is missing before row {entry.number}")
            if entry.previous != head:
                raise _tampered(f"{entry} does not follow row {expected - 1}: it was put there")
            if chain(head, entry.number, entry.time, entry.row) != entry.head:
                raise _tampered(f"{entry} was changed after it was written")
            head, expected = entry.head, expected + 1
        count = self._count()
        if expected <= count:
            raise _tampered(cut_off(expected, count))
        if expected - 1 > count:
            raise _tampered(f"row {count + 1} was added by something else than splitfed")
        if head != self.head():
            raise _tampered(f"the stored head is not that of row {count}")
        return count

    def _count(self) -> int:
        stored = self._database.meta("ledger", tuple[int, bytes])
        return 0 if stored is None else int(stored[0])

    def _one(self, column: str, value: Any) -> LedgerEntry | None:
        found = self._database.row(f"SELECT {_COLUMNS} FROM ledger WHERE {column} = ?", value)
        return None if found is None else self._entry(found)

    def _entry(self, columns: Any) -> LedgerEntry:
        number, when, release, round, kind, tensors, root, size, epsilon, previous, head, sign = (
            columns
        )
        receipts = self._database.rows(
            "SELECT peer, counter_signature FROM receipts WHERE number = ? ORDER BY peer", number
        )
        try:
            return msgspec.convert(
                {
                    "number": number, "time": when, "previous": previous, "head": head,
                    "signature": sign, "receipts": receipts,
                    "row": {
                        "release": release, "round": round, "kind": kind, "root": root,
                        "size": size, "epsilon": epsilon,
                        "tensors": msgspec.json.decode(tensors, type=tuple[TensorSpec, ...]),
                    },
                },
                LedgerEntry,
            )  # fmt: skip
        except (msgspec.MsgspecError, TypeError) as error:
            raise _tampered(f"row {number} cannot be read: {error}") from error


def _tampered(what: str) -> LedgerTampered:
    return LedgerTampered(f"the ledger was tampered with: {what}", _CURE)
