"""Who votes, in a run folder: statements, the views that were made, evidence, quarantine."""

from __future__ import annotations

from collections.abc import Sequence

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
            added = self._database.write(
                "INSERT INTO statements VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                view, round, party, body, signature,
            )  # fmt: skip
            if added:
                return None
            earlier = next(row for row in self.statements(view) if row.party == party)
            if earlier.body == body:
                return None
            if party == self.party:
                raise Defect(f"view {view}: a second, different statement of my own")
            self.save_evidence(earlier.round, party, earlier.body, earlier.signature)
            self.save_evidence(round, party, body, signature)
            return earlier

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
