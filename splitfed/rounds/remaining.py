"""Who of three or more is left to close the open round, and whether they are enough."""

from __future__ import annotations

from collections.abc import Iterable

from splitfed.rounds.book import Book
from splitfed.rounds.liars import Liars
from splitfed.rounds.terms import Terms
from splitfed.rounds.views import Views

MOST_IN_VAIN = 16
"""Views of one round that may be made before those count as late that bring it to nothing."""


class Remaining:
    """The part of :class:`~splitfed.rounds.membership.Membership` that knows who is left. Used by
    the engine's thread only; the attributes are described there."""

    views: Views
    lost: dict[str, str]
    _terms: Terms
    _party: str
    _book: Book
    _liars: Liars

    @property
    def quarantined(self) -> dict[str, str]:
        """Peers that broke the rules and are gone for good, with the reason."""
        return self._liars.quarantined

    @property
    def gone(self) -> dict[str, str]:
        """Peers that take no part any more, with the reason."""
        return {**self.lost, **self.quarantined}

    @property
    def peers(self) -> list[str]:
        """The other members of the present view that are not gone."""
        gone = self.gone
        return [p for p in self.views.current.members if p != self._party and p not in gone]

    def alive(self, late: Iterable[str]) -> set[str]:
        """Who should vote on the open round: the members that are neither ``late`` nor gone, and
        whoever is back and said so for this very round."""
        return self.views.alive(self._book.round, {*late, *self.gone})

    def lacking(self, late: Iterable[str]) -> str:
        """Why those that are left without the ``late`` could close void rounds only; empty: they
        need not."""
        return self._terms.without_the_needed(self.alive(late))

    @property
    def hopeless(self) -> bool:
        """Whether too few are left even if all come back that are not gone."""
        return bool(self._terms.without_the_needed(set(self._terms.parties).difference(self.gone)))

    def wish(self, late: Iterable[str]) -> tuple[int, tuple[str, ...]] | None:
        """Number and members of the view that this party should sign now; None: nothing."""
        return self.views.wish(self._book.round, self.alive(late))

    def idle(self) -> set[str]:
        """After :data:`MOST_IN_VAIN` views of the open round: the members that bring it to nothing,
        since their updates are still awaited, or, where none is, since they have not voted in any
        of these views while this party has. Who signs views for ever is late by this."""
        views, book = self.views, self._book
        if sum(view.round == book.round for view in views.known.values()) <= MOST_IN_VAIN:
            return set()
        others = set(views.current.members) - {self._party}
        if awaited := others.intersection(book.missing_inputs(self._terms)):
            return awaited
        voted = {name for ballots in book.ballots.values() for name in ballots}
        return others - voted if self._party in voted else set()
