"""What the link asks before it pulls a byte: could this offer be admitted at all?"""

from __future__ import annotations

from splitfed.rounds.gates import offer_fault
from splitfed.rounds.schedule import expected
from splitfed.rounds.terms import Terms
from splitfed.transport.events import Offer

CLOSED = "round is closed"
"""The reason for an offer that is merely late: no fault of the sender."""


class Entrance:
    """The ``accept`` check of a link. Asked in the link's thread, told by the engine's.

    Attributes:
        run: the federation run once every peer has been met.
        expected: kind of each exchange that may come now, by number: the open one and the
            next. Replaced as a whole, never changed in place.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.run: bytes | None = None
        self.expected: dict[int, str] = expected((), terms)

    def accept(self, offer: Offer) -> str | None:
        """Why ``offer`` is not to be pulled, or None. Rounds r and r + 1 are open: a peer
        is at most one round ahead."""
        open_now = self.expected
        first = min(open_now, default=None)
        if first is None or offer.round < first:
            return CLOSED
        kind = open_now.get(offer.round)
        if kind is None:
            return f"round {offer.round} while round {first} is open"
        return offer_fault(offer, terms=self._terms, run=self.run, kind=kind)
