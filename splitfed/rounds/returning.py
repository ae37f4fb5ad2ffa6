"""How a party that was left out finds what the others closed meanwhile: equal votes of all the
members of their view say what the shared tensors are, and any of them may bring those.
"""

from __future__ import annotations

from collections.abc import Collection

from splitfed.rounds.terms import Terms
from splitfed.rounds.view import View
from splitfed.rounds.vote import Vote
from splitfed.tensors import Tensors, unpack
from splitfed.transport.events import STATE, STATE_ROUNDS, Offer

KEPT = 8
"""Votes of one party that are kept, twice: a few views of a few rounds."""


class Returning:
    """What a party learns of exchanges that it may have missed.

    Attributes:
        vote: one of the equal votes that closed the last such exchange; None: not known yet.
        shared: the agreed shared tensors after it; None: not here yet.
    """

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._votes: dict[str, dict[tuple[int, int], Vote]] = {}
        self.vote: Vote | None = None
        self.shared: Tensors | None = None

    def note(self, vote: Vote, views: Collection[int]) -> None:
        """Keep a vote whose signature is its party's; of each party the newest few beside which
        another party's stands, and as many others; in both, those of ``views``, which were made
        without us, before all. Of two for one view, what another party says too."""
        votes, key = self._votes.setdefault(vote.party, {}), (vote.round, vote.view)
        others = [of for name, of in self._votes.items() if name != vote.party]
        # Of two that it signed, the one that another party says too: only equal ones count.
        if key not in votes or any(key in of and of[key].says_the_same_as(vote) for of in others):
            votes[key] = vote
        shared = {key for key in votes if any(key in of for of in others)}
        for keys in (shared, votes.keys() - shared):
            for key in sorted(keys, key=lambda key: (key[1] in views, key))[:-KEPT]:
                del votes[key]

    def certify(self, view: View, first: int) -> None:
        """Look for the last exchange from number ``first`` on that all members of ``view`` closed
        with equal votes. It is a view without this party."""
        for round, number in sorted(self._votes.get(view.members[0], {}), reverse=True):
            if number != view.number or round < first:
                continue
            found = [self._votes.get(name, {}).get((round, number)) for name in view.members]
            one = found[0]
            if one is not None and all(v is not None and v.says_the_same_as(one) for v in found):
                old = self.vote
                if old is None or old.round < first or round - old.round >= STATE_ROUNDS:
                    self.vote, self.shared = one, None
                return

    def wants(self, offer: Offer) -> bool:
        """Whether ``offer`` brings the tensors that were voted for."""
        vote = self.vote
        if vote is None or self.shared is not None or offer.kind != STATE:
            return False
        return (offer.round, offer.manifest.root) == (vote.round, vote.shared)

    def take(self, offer: Offer, payload: bytes | bytearray | memoryview) -> None:
        """The tensors are here; the link has verified their root."""
        if self.wants(offer):
            self.shared = unpack(payload, self._terms.shared)

    def forget(self, round: int) -> None:
        """Exchanges up to ``round`` are closed here."""
        for votes in self._votes.values():
            for key in [key for key in votes if key[0] <= round]:
                del votes[key]
        if self.vote is not None and self.vote.round <= round:
            self.vote = self.shared = None
