"""What the link asks before it pulls a byte: could this offer be admitted at all?"""

from __future__ import annotations

from splitfed.rounds.gates import offer_fault
from splitfed.rounds.terms import Terms
from splitfed.transport.events import Offer

CLOSED = "round is closed"
"""The reason for an offer that is merely late: no fault of the sender."""


class Entrance:
    """The ``accept`` check of a link. Asked in the link's thread, told by the engine's.

    Attributes:
        run: the federation run once every peer has been met.
        open_round: the round this party works on.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.run: bytes | None = None
        self.open_round = 1

    def accept(self, offer: Offer) -> str | None:
        """Why ``offer`` is not to be pulled, or None. Rounds r and r + 1 are open: a peer
        is at most one round ahead."""
        if offer.round < self.open_round:
            return CLOSED
        if offer.round > self.open_round + 1:
            return f"round {offer.round} while round {self.open_round} is open"
        return offer_fault(offer, terms=self._terms, run=self.run)
