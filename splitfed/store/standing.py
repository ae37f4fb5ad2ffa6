"""Who votes, in a run folder: statements, the views that were made, evidence, quarantine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from splitfed.errors import Defect
from splitfed.store.rows import ViewRow, VoteRow
from splitfed.store.view import FolderView


class StandingRecords(FolderView):
    """The part of :class:`splitfed.store.RunFolder` that says who takes part, and who lied."""

    def save_statement(
        self, *, view: int, round: int, party: str, body: bytes, signature: bytes
    ) -> VoteRow | None:
        """Record a signed statement for a view; mine must be durable before it is sent.

        Returns:
            None, or the earlier statement when a peer contradicts it: both are then kept as
            evidence for ever, and the earlier one still counts.

        Raises:
            Defect: another statement of mine for the same view.
        """
        with self._database.transaction():
            row = VoteRow(round=round, view=view, party=party, body=body, signature=signature)
            earlier = self._first_word("statement", row, lambda: self.statements(view))
            if earlier is not None:
                self.save_evidence(earlier.round, party, earlier.body, earlier.signature)
            return earlier

    def _first_word(
        self, what: str, row: VoteRow, known: Callable[[], Sequence[VoteRow]]
    ) -> VoteRow | None:
        """Record a signed vote or statement inside an open transaction, if it is the first of its
        party; ``known``: those recorded that it may contradict.

        Returns:
            None, or the earlier one that it contradicts; it is then kept as evidence.

        Raises:
            Defect: a second, different one of mine.
        """
        added = self._database.write(
            f"INSERT INTO {what}s (round, view, party, body, signature) VALUES (?, ?, ?, ?, ?) "
            "ON CONFLICT DO NOTHING",
            row.round, row.view, row.party, row.body, row.signature,
        )  # fmt: skip
        if added:
            return None
        same = row.view, row.party
        earlier = next(other for other in known() if (other.view, other.party) == same)
        if earlier.body == row.body:
            return None
        if row.party == self.party:
            raise Defect(
                f"round {row.round}, view {row.view}: a second, different {what} of my own"
            )
        self.save_evidence(row.round, row.party, row.body, row.signature)
        return earlier

    def drop_statement(self, view: int, party: str) -> None:
        """Forget one party's statement for one view."""
        with self._database.transaction():
            self._database.write("DELETE FROM statements WHERE view = ? AND party = ?", view, party)

    def note_finished(self, party: str, round: int) -> None:
        """Keep that a peer has closed the last exchange, ``round``."""
        if self.finished.get(party) != round:
            with self._database.transaction():
                self._database.set_meta("finished", {**self.finished, party: round})

    def drop_statements(self, below: int) -> None:
        """Forget the statements for views with a lower number."""
        if any(row.view < below for row in self.statements()):
            with self._database.transaction():
                self._database.write("DELETE FROM statements WHERE view < ?", below)

    def note_view(self, view: int, round: int, members: Sequence[str]) -> None:
        """Keep for ever that all ``members`` signed ``view`` while ``round`` was open; of two
        lists for one number the first counts."""
        made = self.views
        if all(row.view != view for row in made):
            made.append(ViewRow(view=view, round=round, members=list(members)))
            with self._database.transaction():
                self._database.set_meta("views", sorted(made, key=lambda row: row.view))

    def quarantine(self, party: str, reason: str) -> None:
        """Keep for ever that a peer broke the rules; the first reason counts."""
        known = self.quarantined
        if party not in known:
            with self._database.transaction():
                self._database.set_meta("quarantined", {**known, party: reason})

    def save_evidence(self, round: int, party: str, body: bytes, signature: bytes = b"") -> None:
        """Keep for ever what a party signed against its own earlier word; see :meth:`evidence`."""
        with self._database.transaction():
            self._database.write(
                "INSERT INTO evidence VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                round, party, body, signature,
            )  # fmt: skip
