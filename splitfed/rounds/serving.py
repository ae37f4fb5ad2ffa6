"""What one party passes on of others: to members what the open round needs, and to whoever is
behind what was closed without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import torch

from splitfed.rounds.gates import Signer, state_offer
from splitfed.rounds.terms import Terms
from splitfed.rounds.view import Demand, View
from splitfed.rounds.views import Views
from splitfed.store import RunFolder, VoteRow
from splitfed.transport.events import NoteKind, Offer, Outgoing, note_message
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
        self._state: Outgoing | None = None

    def pass_on(self, round: int, demand: Demand, view: View) -> None:
        """To the members of ``view``, the updates that ``demand`` names of parties outside it."""
        others = [name for name in view.members if name != self._party]
        for row in self._folder.inputs(round):
            if demand.roots.get(row.party) == row.root and row.party not in view.members:
                offer = msgspec.msgpack.decode(row.offer, type=Offer)
                self._link.pass_on(offer, self._folder.inbox.get(row.root), others)

    def say_again(self, round: int, view: int | None = None) -> None:
        """The statements that made ``view``, or the present view and the own that goes beyond it,
        for all and for whoever connects from now on."""
        number = self._views.current.number if view is None else view
        for row in self._folder.statements():
            beyond = view is None and row.view > number and row.party == self._party
            if row.view == number or beyond:
                self._note(round, "view", row)

    def _note(
        self, round: int, kind: NoteKind, row: VoteRow, to: Sequence[str] | None = None
    ) -> None:
        """Pass on what ``row`` holds. My own words bear the key that signs now."""
        signature = row.signature
        if row.party == self._party:
            signature = self._signer.sign(note_message(kind, row.body))
        self._link.note(round, row.party, kind, row.body, signature, to=to)

    def serve(self, peer: str) -> None:
        """Pass on to ``peer``, which is behind, the votes of the last closed round and what made
        the views they were cast in; one that did not vote wherever we did is offered what came
        of it too."""
        closed = self._folder.closed()
        run, _ = self.agreed
        if closed is None or run is None:
            return
        votes = self._folder.votes(closed.round)
        for number in {self._views.current.number, *(vote.view for vote in votes)}:
            for row in self._folder.statements(number):
                self._note(closed.round + 1, "view", row, [peer])
        for vote in sorted(votes, key=lambda vote: vote.party != self._party):
            self._note(closed.round, "vote", vote, [peer])  # the own first: others' are held to it
        mine, theirs = (
            {vote.view for vote in votes if vote.party == name} for name in (self._party, peer)
        )
        if mine - theirs and closed.outcome in ("agreed", "void"):
            self._link.offer(self._state_after(closed.round, run), to=[peer])

    def _state_after(self, round: int, run: bytes) -> Outgoing:
        if self._state is None or self._state.offer.round != round:
            self._state = state_offer(
                self.agreed[1],
                terms=self._terms,
                run=run,
                round=round,
                party=self._party,
                signer=self._signer,
            )
        return self._state
