"""The rounds in a run folder: what left, what came in, what was voted, what is closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from splitfed.entries import Entry
from splitfed.errors import Defect
from splitfed.store import checkpoints
from splitfed.store.blobs import BlobStore
from splitfed.store.checkpoints import Checkpoint
from splitfed.store.database import Database
from splitfed.store.durable import Bytes, Disk, storage_errors
from splitfed.store.journal import to_json
from splitfed.store.layout import CHECKPOINTS, INBOX, INBOX_CURE, OUTBOX, OUTBOX_CURE
from splitfed.store.ledger import Sign
from splitfed.store.rows import Closed, InputRow, LedgerEntry, Outcome, ReleaseRow, VoteRow
from splitfed.store.standing import StandingRecords
from splitfed.types import Manifest

KEPT_CHECKPOINTS = 2


class RoundRecords(StandingRecords):
    """The part of :class:`splitfed.store.RunFolder` that the round engine writes."""

    outbox: BlobStore
    inbox: BlobStore

    def __init__(self, path: Path, store: Database, disk: Disk, clock: Callable[[], float]) -> None:
        super().__init__(path, store, clock)
        self._disk = disk
        self.outbox = BlobStore(path / OUTBOX, OUTBOX_CURE, disk)
        self.inbox = BlobStore(path / INBOX, INBOX_CURE, disk)

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Make everything written inside durable together, with one fsync, or not at all."""
        with self._database.transaction():
            yield

    def release(
        self,
        row: ReleaseRow,
        payload: Bytes,
        manifest: Manifest | None = None,
        *,
        debit: Callable[[], None] | None = None,
        sign: Sign,
    ) -> LedgerEntry:
        """Make one release durable: outbox file, then debit, then ledger row; then send.

        Each step is durable before the next begins, and only what this returned for may be
        sent. So a crash can only over-count: a debit has its file, a ledger row has its
        debit, and what was sent has all three. Repeating it does what is missing.

        Args:
            row: what leaves.
            payload: its bytes.
            manifest: describes the payload; None: computed, which hashes all of it.
            debit: pays for the release out of the data set's privacy budget, durably and
                once however often it is called, see :meth:`splitfed.store.Budget.spend`;
                None: nothing is to be paid.
            sign: signs the ledger row with the party's key.

        Returns:
            The ledger's new row.

        Raises:
            Defect: the row's root is not that of the payload, or the release is recorded
                with other fields.
            FolderError: the disk is full; nothing was recorded.
            SplitfedError: whatever ``debit`` raises; the ledger is as it was.
        """
        # What the ledger records must be what the folder can send again: checked here, once.
        if manifest is None:
            from splitfed.tensors import manifest_of  # imports torch, which `status` never needs

            manifest = manifest_of(payload, row.tensors)
        if manifest.root != row.root:
            raise Defect(
                f"round {row.round}: the {row.kind} to be released has root "
                f"{manifest.root.hex()}, its ledger row says {row.root.hex()}"
            )
        found = self.ledger.find(row.release)
        if found is None or found.row == row:  # if not, append refuses, and nothing is to be spent
            if found is None or not self.outbox.has(row.root):
                self.outbox.put(manifest, payload)
            if debit is not None:
                debit()
        return self.ledger.append(row, sign)

    def save_input(
        self, round: int, party: str, offer: bytes, root: bytes, reason: str = ""
    ) -> InputRow | None:
        """Record one party's update of a round and its verdict; the first one counts.

        Args:
            round: number of the round.
            party: who made the update.
            offer: its signed offer, byte for byte.
            root: manifest root of the payload, 32 bytes.
            reason: why it is excluded; empty when it is admitted.

        Returns:
            None, or the earlier row when a peer has signed another update for this round:
            the later offer is then kept as evidence, and the earlier row still counts.

        Raises:
            Defect: another update of mine, or another verdict on the same bytes.
        """
        with self._database.transaction():
            added = self._database.write(
                "INSERT INTO inputs VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                round, party, offer, root, reason,
            )  # fmt: skip
            if added:
                return None
            earlier = next(row for row in self.inputs(round) if row.party == party)
            if earlier.root == root and earlier.admitted == (not reason):
                return None
            if earlier.root == root or party == self.party:
                raise Defect(
                    f"round {round}: the update of {party} was recorded with root "
                    f"{earlier.root.hex()} ({earlier.reason or 'admitted'}), and now comes with "
                    f"root {root.hex()} ({reason or 'admitted'})"
                )
            self.save_evidence(round, party, offer)
            return earlier

    def save_entry(self, entry: Entry, counter_signature: bytes | None) -> None:
        """Keep an entry of a peer's ledger for ever; saving it again changes nothing.

        Args:
            entry: its signature was verified, and it follows the entries kept before.
            counter_signature: mine, where the payload is durable already; None where it was
                refused unseen.

        Raises:
            Defect: another entry of this number is kept.
        """
        with self._database.transaction():
            kept = self.witnessed_at(entry.party, entry.number)
            if kept is not None and not kept.entry.same_as(entry):
                raise Defect(f"a second entry {entry.number} of the ledger of {entry.party}")
            if kept is None:
                self._database.write(
                    "INSERT INTO witnessed VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    entry.party, entry.number, entry.run, entry.head, entry.root, entry.round,
                    entry.kind, entry.signature, counter_signature,
                )  # fmt: skip
            elif kept.counter_signature is None and counter_signature is not None:
                self._database.write(
                    "UPDATE witnessed SET counter_signature = ? WHERE party = ? AND number = ?",
                    counter_signature, entry.party, entry.number,
                )  # fmt: skip

    def save_vote(
        self, round: int, view: int, party: str, body: bytes, signature: bytes
    ) -> VoteRow | None:
        """Record a signed vote; mine must be durable before it is sent.

        Returns:
            None, or the earlier vote when a peer contradicts it: the later one is then kept
            as evidence, and the earlier one still counts.

        Raises:
            Defect: another vote of mine for the same round and view.
        """
        with self._database.transaction():
            row = VoteRow(round=round, view=view, party=party, body=body, signature=signature)
            return self._first_word("vote", row, lambda: self.votes(round))

    def drop_input(self, round: int, party: str) -> None:
        """Take a peer's update of an open round back out, and the entry of its ledger that came
        with it: others had the key that signed both."""
        with self._database.transaction():
            for table in ("inputs", "witnessed"):
                self._database.write(
                    f"DELETE FROM {table} WHERE round = ? AND party = ?", round, party
                )

    def drop_votes(self, round: int, party: str, view: int | None = None) -> None:
        """Take a peer's votes of an open round back out, or only that of ``view``."""
        with self._database.transaction():
            self._database.write(
                "DELETE FROM votes WHERE round = ? AND party = ? AND view = coalesce(?, view)",
                round, party, view,
            )  # fmt: skip

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Store a state durably, without ending a round; the last two checkpoints are kept.

        Raises:
            FolderError: the disk is full; the checkpoints are as they were.
        """
        with self._database.transaction():
            self._add_checkpoint(checkpoint)

    def close_round(
        self,
        round: int,
        outcome: str,
        digest: bytes,
        checkpoint: Checkpoint,
        history: Mapping[str, Any],
    ) -> None:
        """End a round durably: checkpoint file first, then its row; closing again is harmless.

        Args:
            round: the round after the last closed one.
            outcome: ``"agreed"``, ``"void"``, ``"alone"`` or ``"missed"``.
            digest: manifest root of the shared tensors after the round.
            checkpoint: the state after the round.
            history: the round's row of the report; figures that are not finite become None.

        Raises:
            Defect: the round is closed with another outcome, or is not the next one.
            FolderError: the disk is full; the last closed round is as it was.
        """
        last = self.closed()
        if last is not None and (last.round, last.outcome, last.digest) == (round, outcome, digest):
            return
        if (
            round != (last.round if last else 0) + 1
            or checkpoint.round != round
            or outcome not in get_args(Outcome)
        ):
            raise Defect(
                f"round {round} ({outcome}, {digest.hex()}) with the checkpoint of round "
                f"{checkpoint.round} cannot be closed after {last}"
            )
        with self._database.transaction():
            self._add_checkpoint(checkpoint)
            self._database.write(
                "INSERT INTO closed VALUES (?, ?, ?, ?)",
                round, outcome, digest, to_json(dict(history)).decode(),
            )  # fmt: skip

    def close_missed(
        self, rows: Sequence[tuple[int, bytes, Mapping[str, Any]]], checkpoint: Checkpoint
    ) -> None:
        """End exchanges that the others closed without this party, all or none of them; again is
        harmless.

        Args:
            rows: number, digest of the shared tensors and history row of each, in order.
            checkpoint: the state after the last of them.

        Raises:
            Defect: they do not follow the last closed round, or it is another round's state.
            FolderError: the disk is full; the last closed round is as it was.
        """
        last, numbers = self.closed(), [round for round, _, _ in rows]
        if rows and last == Closed(round=numbers[-1], outcome="missed", digest=rows[-1][1]):
            return
        first = (last.round if last else 0) + 1
        wanted = list(range(first, first + len(rows)))
        if not rows or numbers != wanted or checkpoint.round != numbers[-1]:
            raise Defect(
                f"missed rounds {numbers} with the checkpoint of round {checkpoint.round} "
                f"cannot be closed after {last}"
            )
        with self._database.transaction():
            self._add_checkpoint(checkpoint)
            for round, digest, history in rows:
                self._database.write(
                    "INSERT INTO closed VALUES (?, 'missed', ?, ?)",
                    round, digest, to_json(dict(history)).decode(),
                )  # fmt: skip

    def confirm(self) -> None:
        """Note durably that every peer has closed my last closed round too.

        Raises:
            Defect: no round is closed.
        """
        last = self.closed()
        if last is None:
            raise Defect("a run without a closed round was to be confirmed")
        if not self.confirmed:
            with self._database.transaction():
                self._database.set_meta("confirmed", last.round)

    def end(self, how: str, reason: str, rejected: Sequence[Mapping[str, Any]]) -> None:
        """Note durably that the federation is over for this party; the first ending counts.

        Args:
            how: ``"alone"`` or ``"excluded"``.
            reason: why, in words.
            rejected: everything rejected so far, as the report lists it.
        """
        if self.ending is None:
            with self._database.transaction():
                self._database.set_meta(
                    "ending",
                    {"how": how, "reason": reason, "rejected": [dict(row) for row in rejected]},
                )

    def prune(self) -> int:
        """Remove the payloads of rounds before the last closed one; returns how many.

        Those of the last closed round stay: a peer may have to be served with them, and
        with the checkpoint before it they rebuild the round. Payloads that no row names
        stay as well: they may have come just now.
        """
        last = self.closed()
        if last is None:
            return 0
        query = (
            "SELECT root FROM inputs WHERE round {0} ?1 "
            "UNION SELECT root FROM ledger WHERE round {0} ?1"
        )
        old, kept = (
            frozenset(root for (root,) in self._database.rows(query.format(sign), last.round))
            for sign in ("<", ">=")
        )
        return self.outbox.remove(old - kept) + self.inbox.remove(old - kept)

    def _add_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write the file, then its row; files without a row are overwritten or removed later."""
        last = self._database.row("SELECT max(number) FROM checkpoints")
        number = (last[0] or 0 if last else 0) + 1
        name = checkpoints.file_name(number)
        path = self.path / CHECKPOINTS / name
        written = checkpoints.save(self._disk, path, checkpoint.tensors, checkpoint.meta)
        self._database.write(
            "INSERT INTO checkpoints VALUES (?, ?, ?, ?)", number, checkpoint.round, name, written
        )
        self._database.write("DELETE FROM checkpoints WHERE number <= ?", number - KEPT_CHECKPOINTS)
        self._database.after_commit(self._drop_old_checkpoints)

    def _drop_old_checkpoints(self) -> None:
        kept = {name for (name,) in self._database.rows("SELECT name FROM checkpoints")}
        with storage_errors(self.path):
            for path in (self.path / CHECKPOINTS).glob("*.safetensors"):
                if path.name not in kept:
                    self._disk.remove(path)
