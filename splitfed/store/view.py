"""Reading a run folder: what `status`, `evaluate`, `report` and `verify` do beside a run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec

from splitfed.entries import Entry, Signature
from splitfed.errors import FolderError, LedgerTampered, NoRunFolder
from splitfed.store import checkpoints, database
from splitfed.store.blobs import BlobReader
from splitfed.store.checkpoints import Checkpoint
from splitfed.store.database import Database
from splitfed.store.durable import Disk
from splitfed.store.journal import read_status
from splitfed.store.layout import (
    ANEW,
    CHECKPOINTS,
    INBOX,
    INBOX_CURE,
    OUTBOX,
    OUTBOX_CURE,
)
from splitfed.store.ledger import Ledger, genesis
from splitfed.store.rows import Closed, Evidence, InputRow, ViewRow, VoteRow, Witnessed

_WITNESSED = "run, party, number, head, root, round, kind, signature, counter_signature"
_logger = logging.getLogger("splitfed.store")


class Owner(msgspec.Struct, frozen=True):
    """Whose folder it is."""

    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    party: str


class Run(msgspec.Struct, frozen=True):
    """Which run it belongs to, and the folders of its peers."""

    run: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    peers: dict[str, bytes]


_Contracts = Annotated[list[tuple[bytes, str]], msgspec.Meta(min_length=1)]


class FolderView:
    """A run folder opened for reading; a run may be writing to it at the same time.

    Made by :meth:`splitfed.store.RunFolder.read_only`. Belongs to the thread that made it.

    Attributes:
        path: the folder.
        party: whose it is.
        folder_id: 16 random bytes, made once: tells a folder from its restored copy's twin.
        ledger: everything that ever left this party.
        outbox: payloads of this party.
        inbox: payloads of peers.
    """

    outbox: BlobReader
    inbox: BlobReader

    def __init__(self, path: Path, store: Database, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._database = store
        owner = store.meta("folder", Owner)
        if owner is None:
            raise FolderError(f"{store.path} does not say whose it is", ANEW)
        self.folder_id: bytes = owner.id
        self.party: str = owner.party
        self.ledger = Ledger(store, genesis(self.folder_id, self.party), clock)
        self.outbox = BlobReader(path / OUTBOX, OUTBOX_CURE)
        self.inbox = BlobReader(path / INBOX, INBOX_CURE)

    @classmethod
    def at(cls, path: Path) -> FolderView:
        """Open ``path`` for reading.

        Raises:
            NoRunFolder: there is none, or not yet.
            FolderError: it is damaged.
        """
        file = path / database.NAME
        missing = NoRunFolder(
            f"{path} is no run folder: it has no {database.NAME}",
            "give the folder of one party, such as runs/hospital-a",
        )
        if not file.is_file():
            raise missing
        store = Database(file, Disk(), read_only=True)
        try:
            if not store.exists:
                raise missing
            return FolderView(path, store)
        except BaseException:
            store.close()
            raise

    # --- who and which run -------------------------------------------------------------

    @property
    def boot(self) -> int:
        """How often a run has opened this folder, from 1; grows for ever."""
        return int(self._database.meta("boot", int) or 0)

    @property
    def contracts(self) -> tuple[tuple[bytes, str], ...]:
        """Digest and document of every agreement this folder has followed, oldest first."""
        return tuple(self._database.meta("contracts", _Contracts) or ())

    @property
    def contract(self) -> bytes:
        """Digest of the agreement that this folder follows, 32 bytes."""
        if not self.contracts:
            raise self._database.damaged("it names no agreement")
        return self.contracts[-1][0]

    @property
    def rosters(self) -> tuple[str, ...]:
        """The public keys of all parties as JSON text: every list of them that this folder has
        followed, oldest first; empty before the first contact."""
        return tuple(self._database.meta("rosters", list[str]) or ())

    @property
    def run(self) -> bytes | None:
        """The name of the federation run, or None before the first contact."""
        fixed = self._database.meta("run", Run)
        return None if fixed is None else bytes(fixed.run)

    @property
    def peer_folders(self) -> dict[str, bytes]:
        """The folder id of each peer of this run; empty before the first contact."""
        fixed = self._database.meta("run", Run)
        return {} if fixed is None else dict(fixed.peers)

    # --- rounds ------------------------------------------------------------------------

    def inputs(self, round: int) -> tuple[InputRow, ...]:
        """The updates of a round with their verdicts, in order of party."""
        rows = self._database.rows(
            "SELECT party, offer, root, reason FROM inputs WHERE round = ? ORDER BY party", round
        )
        return tuple(
            InputRow(round=round, party=party, offer=offer, root=root, reason=reason)
            for party, offer, root, reason in rows
        )

    def votes(self, round: int) -> tuple[VoteRow, ...]:
        """The votes of a round, in order of view and party."""
        rows = self._database.rows(
            "SELECT view, party, body, signature FROM votes WHERE round = ? ORDER BY view, party",
            round,
        )
        return tuple(
            VoteRow(round=round, view=view, party=party, body=body, signature=signature)
            for view, party, body, signature in rows
        )

    def statements(self, view: int | None = None) -> tuple[VoteRow, ...]:
        """The signed statements for views, or for one of them, in order of view and party."""
        rows = self._database.rows(
            "SELECT round, view, party, body, signature FROM statements "
            "WHERE ?1 IS NULL OR view = ?1 ORDER BY view, party",
            view,
        )
        return tuple(
            VoteRow(round=round, view=number, party=party, body=body, signature=signature)
            for round, number, party, body, signature in rows
        )

    @property
    def views(self) -> list[ViewRow]:
        """The views that were made while this party was a member, in order; none: all parties
        always voted."""
        return self._database.meta("views", list[ViewRow]) or []

    @property
    def quarantined(self) -> dict[str, str]:
        """Peers that broke the rules and take no part in this run any more, with the reason."""
        return self._database.meta("quarantined", dict[str, str]) or {}

    def witnessed(self) -> tuple[Witnessed, ...]:
        """Every entry of a peer's ledger that its offers showed, by party and number.

        Raises:
            LedgerTampered: one cannot be read as what it must be.
        """
        return self._witnessed("ORDER BY party, number")

    def witnessed_at(self, party: str, number: int) -> Witnessed | None:
        """That peer's entry of this number, or None."""
        return next(iter(self._witnessed("WHERE party = ? AND number = ?", party, number)), None)

    def last_witnessed(self, party: str, *, signed: bool = False) -> Witnessed | None:
        """The newest entry of a peer's ledger that was seen, or None before the first;
        ``signed``: the newest that this party counter-signed."""
        which = "AND counter_signature IS NOT NULL " if signed else ""
        rows = self._witnessed(f"WHERE party = ? {which}ORDER BY number DESC LIMIT 1", party)
        return next(iter(rows), None)

    def _witnessed(self, which: str, *values: Any) -> tuple[Witnessed, ...]:
        rows = self._database.rows(f"SELECT {_WITNESSED} FROM witnessed {which}", *values)
        try:
            return tuple(
                Witnessed(
                    entry=msgspec.convert(row[:-1], Entry),
                    counter_signature=msgspec.convert(row[-1], Signature | None),
                )
                for row in rows
            )
        except msgspec.ValidationError as error:
            raise LedgerTampered(
                f"an entry of a peer's ledger that {self.path} keeps cannot be read: {error}", ANEW
            ) from error

    def own_vote(self, round: int) -> VoteRow | None:
        """My vote in the highest view of a round, or None."""
        mine = [vote for vote in self.votes(round) if vote.party == self.party]
        return mine[-1] if mine else None

    def evidence(self) -> tuple[Evidence, ...]:
        """Everything signed that contradicts what its signer had signed before."""
        rows = self._database.rows(
            "SELECT round, party, body, signature FROM evidence ORDER BY round, party, body"
        )
        return tuple(
            Evidence(round=round, party=party, body=body, signature=signature)
            for round, party, body, signature in rows
        )

    def closed(self) -> Closed | None:
        """The last closed round, or None."""
        return next(iter(self._closed("DESC LIMIT 1")), None)

    @property
    def last_closed(self) -> int:
        """Number of the last closed round; 0 before the first."""
        return 0 if (last := self.closed()) is None else last.round

    def all_closed(self) -> tuple[Closed, ...]:
        """Every closed round in order."""
        return self._closed("ASC")

    def missed(self) -> frozenset[int]:
        """The rounds that others closed without this party."""
        rows = self._database.rows("SELECT round FROM closed WHERE outcome = 'missed'")
        return frozenset(int(round) for (round,) in rows)

    def _closed(self, order: str) -> tuple[Closed, ...]:
        rows = self._database.rows(
            f"SELECT round, outcome, digest FROM closed ORDER BY round {order}"
        )
        try:
            return tuple(
                msgspec.convert(dict(zip(Closed.__struct_fields__, row, strict=True)), Closed)
                for row in rows
            )
        except msgspec.ValidationError as error:
            raise self._database.damaged(f"a closed round: {error}") from None

    @property
    def confirmed(self) -> bool:
        """Whether every peer is known to have closed my last closed round too."""
        last = self.closed()
        return last is not None and self._database.meta("confirmed") == last.round

    @property
    def finished(self) -> dict[str, int]:
        """By peer, the last exchange that it said it had closed when it finished."""
        return dict(self._database.meta("finished", dict[str, int]) or {})

    @property
    def ending(self) -> dict[str, Any] | None:
        """How the federation ended before its last round: ``how``, ``reason`` and
        ``rejected``; None while it goes on, and after an ordinary end."""
        found = self._database.meta("ending", dict[str, Any])
        return None if found is None else dict(found)

    def history(self, last: int | None = None) -> list[dict[str, Any]]:
        """The history rows of all closed rounds, or of the ``last`` ones, in order; what was not
        finite is None."""
        query = "SELECT history FROM closed ORDER BY round DESC LIMIT ?"
        rows = self._database.rows(query, -1 if last is None else last)
        try:
            return [msgspec.json.decode(text, type=dict[str, Any]) for (text,) in reversed(rows)]
        except (msgspec.MsgspecError, TypeError, RecursionError) as error:
            raise self._database.damaged(f"a closed round's history: {error}") from None

    def checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is whole, or None before the first one.

        When the newest is damaged, this is the one before it, with a warning that names the
        file: its ``round`` and meta say how far back that is, ``closed()`` does not.

        Raises:
            FolderError: neither of the last two can be read.
        """
        rows = self._database.rows(
            "SELECT round, name, digest FROM checkpoints ORDER BY number DESC LIMIT 2"
        )
        damaged = []
        for round, name, digest in rows:
            if not isinstance(name, str) or not checkpoints.NAME.fullmatch(name):
                raise self._database.damaged(f"a checkpoint is named {name!r}")
            path = self.path / CHECKPOINTS / name
            found = checkpoints.file_digest(path)
            if found == digest:
                try:
                    tensors, meta = checkpoints.load(path)
                except checkpoints.no_such_file() as error:
                    raise FolderError(f"{path} is no checkpoint: {error}", ANEW) from None
                return Checkpoint(round=round, tensors=tensors, meta=meta)
            damaged.append(path)
            self._warn_damaged(path, "missing" if found is None else "changed or incomplete")
        if not rows:
            return None
        raise FolderError(
            f"no checkpoint can be read: {' and '.join(str(path) for path in damaged)} "
            f"{'is' if len(damaged) == 1 else 'are'} missing or damaged",
            ANEW,
        )

    def _warn_damaged(self, path: Path, why: str) -> None:
        _logger.warning("checkpoint %s is %s; using the one before it", path, why)

    # --- the rest ----------------------------------------------------------------------

    def status(self) -> dict[str, Any] | None:
        """What the run last said about itself, see :func:`splitfed.store.journal.read_status`."""
        return read_status(self.path)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All that is read inside is of one moment, whatever a run writes meanwhile."""
        with self._database.snapshot():
            yield

    def verify(self) -> int:
        """Check the ledger's chain and every outbox file it names; returns the rows' number.

        A file that is no longer there was pruned: its row stays.

        Raises:
            LedgerTampered: naming the row or the file.
        """
        number = self.ledger.verify()
        for entry in self.ledger.rows():
            self.outbox.check(entry.row.root)
        return number

    def close(self) -> None:
        """Close the folder; calling it again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
