"""What the link asks before it pulls a byte: could this offer be admitted at all?"""

from __future__ import annotations

from splitfed.rounds.checks import offer_fault
from splitfed.rounds.schedule import expected
from splitfed.rounds.terms import Terms
from splitfed.transport.events import STATE, Offer
from splitfed.transport.offers import LATER

CLOSED = "round is closed"
"""The reason for an offer that is merely late: no fault of the sender."""


class Entrance:
    """The ``accept`` check of a link. Asked in the link's thread, told by the engine's.

    Attributes:
        run: the federation run once every peer has been met.
        expected: kind of each exchange that may come now, by number: the open one and the
            next. Replaced as a whole, never changed in place.
        asked: whose updates, and which, may be passed on by others; replaced likewise.
        state: the round and the digest of the agreed shared tensors that are looked for; None:
            this party was not left out.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self.run: bytes | None = None
        self.expected: dict[int, str] = expected((), terms)
        self.asked: frozenset[tuple[str, bytes]] = frozenset()
        self.state: tuple[int, bytes] | None = None

    def wanted(self, offer: Offer) -> bool:
        """Whether another party's update is to be taken from a peer that passes it on."""
        here = offer.run == self.run and offer.round == min(self.expected, default=0)
        return here and (offer.party, offer.manifest.root) in self.asked

    def accept(self, offer: Offer) -> str | None:
        """Why ``offer`` is not to be pulled, or None. Rounds r and r + 1 are open: a peer
        is at most one round ahead, unless others went on without this party."""
        if offer.kind == STATE:
            if (offer.round, offer.manifest.root) != self.state:
                return LATER
            return offer_fault(offer, terms=self._terms, run=self.run, kind=STATE)
        open_now = self.expected
        first = min(open_now, default=None)
        if first is None or offer.round < first:
            return CLOSED
        kind = open_now.get(offer.round)
        if kind is None and len(self._terms.parties) > 2:
            return LATER
        if kind is None:
            return f"round {offer.round} while round {first} is open"
        return offer_fault(offer, terms=self._terms, run=self.run, kind=kind)
