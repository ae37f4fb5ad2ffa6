"""Turns what the link reports into the book of the open round.

Everything that counts is durable before it is acknowledged: an update's bytes and its
signed offer before STORED, a vote before the round is closed on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import msgspec
import torch

from splitfed.errors import (
    ProtocolViolation,
)
from splitfed.rounds.book import Book
from splitfed.rounds.gates import Admission, admit, refused
from splitfed.rounds.meeting import Meeting
from splitfed.rounds.recovery import drop_revoked, recalled, stored_update
from splitfed.rounds.schedule import expected, plan, trained
from splitfed.rounds.statements import decode_statement
from splitfed.rounds.terms import UPDATE
from splitfed.rounds.views import LEAP
from splitfed.rounds.violations import Violation, blaming
from splitfed.rounds.vote import Vote, decode_vote
from splitfed.transport.events import (
    STATE,
    Arrived,
    Delivered,
    Event,
    Failed,
    Greeted,
    Left,
    Noted,
    Offer,
    OfferRefused,
    Outgoing,
    StatusChanged,
    Voted,
)

MOST_EARLY = 4
"""Events of the next round that one peer can rightly cause before we get there; with views, that
many for each party, since everybody passes on what others signed."""


class Mail(Meeting):
    """The open round's mail. Used by the engine's thread only.

    Attributes:
        book: what is known about the open round.
        receipts: what is counter-signed, and owed.
        membership: who votes.
        run: the federation run, once every peer has been met.
        kind: what is exchanged in the open round.
        busy_until: when each peer was first seen to have ended its training, by the clock.
        left: peers that said goodbye, with the last round they closed.
    """

    def open(self, base: Mapping[str, torch.Tensor], kinds: Sequence[str]) -> list[Event]:
        """Start the book of the exchange after those of ``kinds``, which are closed, with the
        votes and updates that the folder holds. ``base`` is g of the last closed round. Returns
        what arrived early and must be handled now."""
        round = len(kinds) + 1
        self._base = base
        self._kinds = tuple(kinds)
        self.book = Book(round=round)
        self.busy_until = {}
        self._entrance.expected = expected(kinds, self._terms)
        self.kind = self._entrance.expected.get(round, UPDATE)
        drop_revoked(self._folder, self._terms, round)
        for stored in self._folder.votes(round):
            self.book.add_vote(decode_vote(stored.body))
        if self.run is not None:
            for verdict in recalled(
                self._folder,
                terms=self._terms,
                base=base,
                run=self.run,
                round=round,
                kind=self.kind,
            ):
                self.book.add_input(self._light(verdict))
            for offer in self.receipts.held(round):
                self._link.stored(offer.party, offer, self.receipts.sign(offer))
        self.membership.open(self.book, self._kinds, self.run, base)
        early, self._early = self._early, []
        while (ready := self.membership.ready()) is not None:
            early.append(ready)
        return early

    def note_own(self, out: Outgoing) -> None:
        """Judge what this party released like everyone else does, from the bytes that left."""
        self.book.add_input(self._light(self._judge(out.offer, out.payload)))

    def _light(self, verdict: Admission) -> Admission:
        """The verdict on what is stored, without its values."""
        party, root = verdict.party, verdict.root
        return verdict.stored(
            partial(stored_update, self._folder, self._terms, self.kind, party, root)
        )

    def handle(self, event: Event) -> None:
        """Take in one event.

        Raises:
            Violation: the peer broke the rules of the round.
            ContractMismatch, PeerRefusedUs, PeerKeyMismatch, KeyInUse: fatal, as reported.
            FolderDiverged: this folder lacks what a peer proves we did.
        """
        if event.peer in self.membership.quarantined:
            return
        match event:
            case Greeted():
                self._greeted(event.peer, event.greeting)
            case Arrived() | OfferRefused():
                self._input(event)
            case Voted():
                self._vote(event, event.peer)
            case Noted():
                self._noted(event)
            case Delivered() if event.offer.party == self._party:
                self.receipts.delivered(event)
            case StatusChanged():
                self._progress.on_peer(event.peer, self._in_words(event))
                busy = event.status.phase in ("training", "fitting")
                if event.status.round == self.book.round and not busy:
                    self._trained(event.peer)
            case Left():
                self.left[event.peer] = event
                if self.membership.dynamic and event.closed >= self.last:
                    self._folder.note_finished(event.peer, event.closed)
                if event.reason == "alone" and event.closed < self.last:
                    self._gone(event.peer, "left the federation and goes on alone")
            case Failed():
                self._failed(event)
            case _:
                pass

    def _trained(self, peer: str) -> None:
        """The peer's training of this round is over: the first sign of that counts."""
        self.busy_until.setdefault(peer, self._clock())

    # --- one kind of event each --------------------------------------------------------

    def _wait_with(self, event: Arrived | OfferRefused | Voted | Noted) -> None:
        """Keep an event for later: of the next round, or of a run without a name yet."""
        most = MOST_EARLY * (len(self._terms.parties) if self.membership.dynamic else 1)
        if sum(kept.peer == event.peer for kept in self._early) >= most:
            if self.membership.dynamic:
                return  # votes in ever more views, which close nothing for us
            raise Violation(event.peer, "sends more of the next round than one update and vote")
        self._early.append(event)

    def _input(self, event: Arrived | OfferRefused) -> None:
        offer = event.offer
        if offer.kind == STATE:
            if isinstance(event, Arrived):
                self.membership.returning.take(offer, event.payload)
            return
        if self.run is None or offer.round == self.book.round + 1:
            self._wait_with(event)
            return
        if self.membership.dynamic and offer.round > self.book.round:
            return  # the others went on without this party
        passed_on = offer.party != event.peer
        elsewhere = offer.run != self.run or (
            offer.round == self.book.round and offer.kind != self.kind
        )
        if offer.run != self.run and not passed_on and self._elsewhere(event.peer):
            return
        if self.membership.dynamic and elsewhere and not passed_on:
            raise Violation(event.peer, "offers something of another run or kind")
        if offer.run == self.run and not passed_on:
            with blaming(event.peer), self._proving(offer):
                self.receipts.check(offer)
        if offer.round != self.book.round:
            # Of a round that was open when the link refused it, the book had its verdict.
            if isinstance(event, OfferRefused) and offer.round > self.book.round:
                raise Violation(event.peer, f"offer refused: {event.reason}")
            if passed_on:
                return
            if self.receipts.signed(offer):
                self._link.stored(event.peer, offer, self.receipts.sign(offer))
            elif self.membership.dynamic and offer.run == self.run:
                # Made before its party was left out: it counts no more, but its ledger goes on. Or
                # passed on by another before, and then it is here.
                here = self.receipts.here(offer)
                self.receipts.keep(offer, stored=here)
                if here:
                    self._link.stored(event.peer, offer, self.receipts.sign(offer))
            return
        if isinstance(event, Arrived):
            verdict = self._judge(offer, event.payload)
        else:
            verdict = refused(offer, event.reason)
        self._keep(event, verdict)

    def _judge(self, offer: Offer, payload: bytes | bytearray | memoryview) -> Admission:
        assert self.run is not None  # nothing is exchanged before the run has a name
        return admit(
            offer,
            payload,
            terms=self._terms,
            base=self._base,
            run=self.run,
            round=self.book.round,
            kind=self.kind,
        )

    @contextmanager
    def _proving(self, offer: Offer) -> Iterator[None]:
        """Keep as evidence the signed offer by which a peer breaks the rules inside."""
        try:
            yield
        except ProtocolViolation:
            self._folder.save_evidence(offer.round, offer.party, msgspec.msgpack.encode(offer))
            raise

    def _keep(self, event: Arrived | OfferRefused, verdict: Admission) -> None:
        """Note the verdict, store what it rests on, and only then acknowledge."""
        peer, offer = event.peer, event.offer
        own = offer.party == peer
        if own:
            self._trained(peer)
        elif offer.party in self.book.inputs:
            return  # passed on by another before
        known = self.book.inputs.get(offer.party)
        with blaming(peer), self._proving(offer):
            self.book.add_input(verdict)
        arrived = isinstance(event, Arrived)
        if isinstance(event, Arrived):
            self._folder.inbox.put(offer.manifest, event.payload)
            self.book.inputs[offer.party] = self._light(verdict)
        with self._folder.batch():
            if known is None:
                self._folder.save_input(
                    round=self.book.round,
                    party=offer.party,
                    offer=msgspec.msgpack.encode(offer),
                    root=offer.manifest.root,
                    reason=verdict.reason or "",
                )
            if own and offer.run == self.run:
                self.receipts.keep(offer, stored=arrived)
        if arrived and own and offer.run == self.run:
            self._greet()
            self._link.stored(peer, offer, self.receipts.sign(offer))

    def _noted(self, event: Noted) -> None:
        """A peer passes on what somebody signed, perhaps itself; who signed it answers for it."""
        if not self.membership.dynamic:
            raise Violation(event.peer, f"passes on a {event.kind} where there are two parties")
        if self.run is None:
            self._wait_with(event)
        elif event.kind == "vote":
            if event.origin != self._party:
                self._vote(event, event.origin)
        elif not self._stated_elsewhere(event):
            self.membership.noted(event)

    def _stated_elsewhere(self, event: Noted) -> bool:
        """Whether a peer says in another run than ours who votes, by no fault of its own."""
        if event.kind != "view" or event.peer != event.origin:
            return False
        with blaming(event.peer):
            run = decode_statement(event.body).run
        return run != self.run and self._elsewhere(event.peer)

    def _vote(self, event: Voted | Noted, voter: str) -> None:
        if self.run is None:
            self._wait_with(event)
            return
        with blaming(event.peer):  # who passes something on has read it
            vote = decode_vote(event.body)
            if voter != event.peer and vote.run != self.run:
                raise ProtocolViolation("passes on a vote of another run")
        said = vote.round if isinstance(event, Noted) else event.round
        dynamic, far = self.membership.dynamic, vote.round > self.book.round + 1
        if not dynamic and (vote.view != 0 or far):
            raise Violation(voter, f"a vote of view {vote.view} for round {vote.round}")
        if vote.run != self.run and self._elsewhere(voter):
            return
        if vote.run != self.run or vote.round != said or vote.party != voter:
            raise Violation(voter, "a vote for another run, round or party than it says")
        if dynamic and vote.round >= self.book.round:
            self.membership.learn(vote)
        if far:
            return
        if vote.round < self.book.round:
            self._against_earlier(vote)
        elif vote.round > self.book.round:
            self._wait_with(event)
        else:
            if dynamic and not self._room_for(vote):
                return
            try:
                self.book.add_vote(vote)
            except ProtocolViolation as error:
                if voter in self.membership.quarantined:
                    return  # enough is kept against it
                self._folder.save_evidence(vote.round, vote.party, event.body)
                raise Violation(voter, error.message) from error
            self._folder.save_vote(
                round=vote.round,
                view=vote.view,
                party=vote.party,
                body=event.body,
                signature=event.signature,
            )

    def _room_for(self, vote: Vote) -> bool:
        """Of each party, the votes in the views that are known are kept, and a few in others."""
        view = self.book.crowded_out(vote, LEAP, self.membership.views.known)
        if view is not None and view != vote.view:
            self.book.forget_vote(view, vote.party)
            self._folder.drop_votes(vote.round, vote.party, view)
        return view != vote.view

    def _against_earlier(self, vote: Vote) -> None:
        for stored in self._folder.votes(vote.round):
            same = (stored.party, stored.view) == (vote.party, vote.view)
            if same and decode_vote(stored.body) != vote:
                raise Violation(vote.party, f"two different votes for round {vote.round}")

    def _in_words(self, event: StatusChanged) -> str:
        status = event.status
        number = trained(plan(self._kinds, self._terms)[: status.round])
        where = f"round {number} " if number else ""
        steps = f", step {status.step} of {status.steps}" if status.steps else ""
        return f"{where}{status.phase}{steps}"
