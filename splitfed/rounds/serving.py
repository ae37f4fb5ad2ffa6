"""What one party passes on of others: to members what the open round needs, and to whoever is
behind what was closed without it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import torch

from splitfed.rounds.gates import Signer, state_offer
from splitfed.rounds.terms import Terms
from splitfed.rounds.views import Demand, View, Views
from splitfed.store import RunFolder
from splitfed.transport.events import Offer
from splitfed.transport.link import Link


class Serving:
    """Used by the engine's thread only.

    Attributes:
        agreed: the run, None before it has a name, and g of its last closed round.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        party: str,
        folder: RunFolder,
        link: Link,
        signer: Signer,
        views: Views,
    ) -> None:
        self._terms, self._party, self._folder = terms, party, folder
        self._link, self._signer, self._views = link, signer, views
        self.agreed: tuple[bytes | None, Mapping[str, torch.Tensor]] = None, {}

    def pass_on(self, round: int, demand: Demand, view: View) -> None:
        """To the members of ``view``, the updates that ``demand`` names of parties outside it."""
        others = [name for name in view.members if name != self._party]
        for row in self._folder.inputs(round):
            if demand.roots.get(row.party) == row.root and row.party not in view.members:
                offer = msgspec.msgpack.decode(row.offer, type=Offer)
                self._link.pass_on(offer, self._folder.inbox.get(row.root), others)

    def say_again(self, round: int) -> None:
        """The statements that made the present view, and the own that goes beyond it, for
        whoever connects from now on."""
        number = self._views.current.number
        for row in self._folder.statements():
            if row.view == number or (row.view > number and row.party == self._party):
                self._link.note(round, row.party, "view", row.body, row.signature)

    def serve(self, peer: str) -> None:
        """Pass on to ``peer``, which is behind, the votes of the last closed round and what made
        the view they were cast in; one that did not vote is offered what came of it too."""
        closed = self._folder.closed()
        run, g = self.agreed
        if closed is None or run is None:
            return
        votes = self._folder.votes(closed.round)
        for number in {self._views.current.number, *(vote.view for vote in votes)}:
            for row in self._folder.statements(number):
                self._link.note(
                    closed.round + 1, row.party, "view", row.body, row.signature, to=[peer]
                )
        for vote in votes:
            self._link.note(closed.round, vote.party, "vote", vote.body, vote.signature, to=[peer])
        voted = {vote.party for vote in votes}
        if votes and peer not in voted and closed.outcome in ("agreed", "void"):
            out = state_offer(
                g,
                terms=self._terms,
                run=run,
                round=closed.round,
                party=self._party,
                signer=self._signer,
            )
            self._link.offer(out, to=[peer])
