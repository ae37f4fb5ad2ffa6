"""Turns what the link reports into the book of the open round.

Everything that counts is durable before it is acknowledged: an update's bytes and its
signed offer before STORED, a vote before the round is closed on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import msgspec
import torch

from splitfed.errors import (
    ContractMismatch,
    FolderDiverged,
    KeyInUse,
    PeerKeyMismatch,
    PeerRefusedUs,
    ProtocolViolation,
)
from splitfed.progress import Progress
from splitfed.rounds.book import Book
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import Admission, Signer, admit
from splitfed.rounds.past import check_own_past
from splitfed.rounds.receipts import Receipts
from splitfed.rounds.recovery import drop_revoked, recalled
from splitfed.rounds.schedule import expected, plan, trained
from splitfed.rounds.terms import UPDATE, Terms, run_id
from splitfed.rounds.vote import Vote, decode_vote
from splitfed.store import RunFolder
from splitfed.transport.events import (
    Arrived,
    Delivered,
    Event,
    Failed,
    Greeted,
    Greeting,
    Left,
    Offer,
    OfferRefused,
    Outgoing,
    StatusChanged,
    Voted,
)
from splitfed.transport.link import Link

FATAL = (ContractMismatch, PeerRefusedUs, PeerKeyMismatch, KeyInUse)
"""Failures of a link that no waiting mends: somebody has to change a file first."""


MOST_EARLY = 4
"""Events of the next round that one peer can rightly cause before we get there."""


class Violation(Exception):
    """A peer broke the rules of the round; carries who and what for the record."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f"{peer}: {reason}")
        self.peer = peer
        self.reason = reason


@contextmanager
def blaming(peer: str) -> Iterator[None]:
    """What breaks a rule inside was done by ``peer``."""
    try:
        yield
    except ProtocolViolation as error:
        raise Violation(peer, error.message) from error


class Mail:
    """The open round's mail. Used by the engine's thread only.

    Attributes:
        book: what is known about the open round.
        receipts: what is counter-signed, and owed.
        run: the federation run, once every peer has been met.
        kind: what is exchanged in the open round.
        busy_until: when each peer was first seen to have ended its training, by the clock.
        left: peers that said goodbye, with the last round they closed.
    """

    def __init__(
        self,
        *,
        terms: Terms,
        party: str,
        folder: RunFolder,
        link: Link,
        entrance: Entrance,
        signer: Signer,
        greet: Callable[[], None],
        progress: Progress,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._terms = terms
        self._party = party
        self._folder = folder
        self._link = link
        self._entrance = entrance
        self._greet = greet
        self._new_greetings: dict[str, Greeting] = {}
        self.receipts = Receipts(terms=terms, party=party, folder=folder, signer=signer)
        self._progress = progress
        self._clock = clock
        self._base: Mapping[str, torch.Tensor] = {}
        self._kinds: tuple[str, ...] = ()
        self.kind = UPDATE
        self._early: list[Event] = []
        self._folders: dict[str, bytes] = {party: folder.folder_id}
        self.peers = tuple(name for name in terms.parties if name != party)
        self.book = Book(round=0)
        self.run = folder.run
        self.busy_until: dict[str, float] = {}
        self.met: set[str] = set()
        self.left: dict[str, Left] = {}
        entrance.run = folder.run

    @property
    def number(self) -> int:
        """The round of training that is open, or after which the open fusion comes."""
        return trained((*self._kinds, self.kind))

    @property
    def last(self) -> int:
        """Number of the last exchange, which closes the federation."""
        return len(plan(self._kinds, self._terms))

    def unmet(self) -> list[str]:
        """Peers that have not greeted us in this process."""
        return [peer for peer in self.peers if peer not in self.met]

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
                self.book.add_input(verdict)
            for offer in self.receipts.held(round):
                self._link.stored(offer.party, offer, self.receipts.sign(offer))
        early, self._early = self._early, []
        return early

    def note_own(self, out: Outgoing) -> None:
        """Judge what this party released like everyone else does, from the bytes that left."""
        self.book.add_input(self._judge(out.offer, out.payload))

    def handle(self, event: Event) -> None:
        """Take in one event.

        Raises:
            Violation: the peer broke the rules of the round.
            ContractMismatch, PeerRefusedUs, PeerKeyMismatch, KeyInUse: fatal, as reported.
            FolderDiverged: this folder lacks what a peer proves we did.
        """
        match event:
            case Greeted():
                self._greeted(event.peer, event.greeting)
            case Arrived() | OfferRefused():
                self._input(event)
            case Voted():
                self._vote(event)
            case Delivered():
                self.receipts.delivered(event)
            case StatusChanged():
                self._progress.on_peer(event.peer, self._in_words(event))
                busy = event.status.phase in ("training", "fitting")
                if event.status.round == self.book.round and not busy:
                    self._trained(event.peer)
            case Left():
                self.left[event.peer] = event
                if event.reason == "alone" and event.closed < self.last:
                    raise Violation(event.peer, "left the federation and goes on alone")
            case Failed():
                self._failed(event)
            case _:
                pass

    def _trained(self, peer: str) -> None:
        """The peer's training of this round is over: the first sign of that counts."""
        self.busy_until.setdefault(peer, self._clock())

    # --- one kind of event each --------------------------------------------------------

    def _failed(self, event: Failed) -> None:
        if isinstance(event.error, ProtocolViolation):
            if event.error.evidence:
                offer = msgspec.msgpack.decode(event.error.evidence, type=Offer)
                self._folder.save_evidence(offer.round, event.peer, event.error.evidence)
            raise Violation(event.peer, event.error.message)
        if isinstance(event.error, FATAL):
            raise event.error
        raise event.error

    def _greeted(self, peer: str, greeting: Greeting) -> None:
        if greeting.purpose == "check":
            return
        self.left.pop(peer, None)
        known = self._folder.peer_folders.get(peer, greeting.folder)
        if known != greeting.folder:
            raise FolderDiverged(
                f"{peer} comes back with another run folder ({greeting.folder.hex()[:8]} "
                f"instead of {known.hex()[:8]}): it has started over",
                "let it use its old folder, or start over on both sides with a new --out",
            )
        self._folders[peer] = greeting.folder
        if self.run is None and set(self._folders) == set(self._terms.parties):
            self.run = run_id(self._folder.contract, self._folders)
            self._folder.fix_run(
                self.run, {p: f for p, f in self._folders.items() if p != self._party}
            )
            self._entrance.run = self.run
        self._new_greetings[peer] = greeting
        if self.run is not None:
            # Also those that came before the run had a name: nothing is released until then.
            while self._new_greetings:
                self._check_own_past(*self._new_greetings.popitem(), self.run)
        self.met.add(peer)
        self._check_progress(peer, greeting)
        if self.run is not None:
            early, self._early = self._early, []
            for event in early:
                self.handle(event)

    def _wait_with(self, event: Arrived | OfferRefused | Voted) -> None:
        """Keep an event for later: of the next round, or of a run without a name yet."""
        if sum(kept.peer == event.peer for kept in self._early) >= MOST_EARLY:
            raise Violation(event.peer, "sends more of the next round than one update and vote")
        self._early.append(event)

    def _check_own_past(self, peer: str, greeting: Greeting, run: bytes) -> None:
        with blaming(peer):
            check_own_past(peer, greeting, run=run, terms=self._terms, folder=self._folder)

    def _check_progress(self, peer: str, greeting: Greeting) -> None:
        mine = self.book.round - 1
        if greeting.closed_round > mine + 1:
            raise Violation(
                peer, f"claims to have closed round {greeting.closed_round}, we are at {mine}"
            )
        if greeting.closed_round < mine - 1:
            self._progress.on_peer(
                peer,
                f"is at round {greeting.closed_round}, we closed {mine}: waiting for its "
                "newest run folder",
            )

    def _input(self, event: Arrived | OfferRefused) -> None:
        offer = event.offer
        if self.run is None or offer.round == self.book.round + 1:
            self._wait_with(event)
            return
        if offer.run == self.run:
            with blaming(event.peer), self._proving(offer):
                self.receipts.check(offer)
        if offer.round != self.book.round:
            # Of a round that was open when the link refused it, the book had its verdict.
            if isinstance(event, OfferRefused) and offer.round > self.book.round:
                raise Violation(event.peer, f"offer refused: {event.reason}")
            if self.receipts.signed(offer):
                self._link.stored(event.peer, offer, self.receipts.sign(offer))
            return
        if isinstance(event, Arrived):
            verdict = self._judge(offer, event.payload)
        else:
            verdict = Admission(
                party=offer.party, root=offer.manifest.root, tensors=None, reason=event.reason
            )
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
        self._trained(peer)
        known = self.book.inputs.get(offer.party)
        with blaming(peer), self._proving(offer):
            self.book.add_input(verdict)
        arrived = isinstance(event, Arrived)
        if isinstance(event, Arrived):
            self._folder.inbox.put(offer.manifest, event.payload)
        with self._folder.batch():
            if known is None:
                self._folder.save_input(
                    round=self.book.round,
                    party=offer.party,
                    offer=msgspec.msgpack.encode(offer),
                    root=offer.manifest.root,
                    reason=verdict.reason or "",
                )
            if offer.run == self.run:
                self.receipts.keep(offer, stored=arrived)
        if arrived and offer.run == self.run:
            self._greet()
            self._link.stored(peer, offer, self.receipts.sign(offer))

    def _vote(self, event: Voted) -> None:
        if self.run is None:
            self._wait_with(event)
            return
        vote = self._read(event.peer, event.body)
        if vote.view != 0 or vote.round > self.book.round + 1:
            raise Violation(event.peer, f"a vote of view {vote.view} for round {vote.round}")
        if vote.run != self.run or vote.round != event.round or vote.party != event.peer:
            raise Violation(event.peer, "a vote for another run, round or party than it says")
        if vote.round < self.book.round:
            self._against_earlier(vote)
        elif vote.round > self.book.round:
            self._wait_with(event)
        else:
            try:
                self.book.add_vote(vote)
            except ProtocolViolation as error:
                self._folder.save_evidence(vote.round, vote.party, event.body)
                raise Violation(event.peer, error.message) from error
            self._folder.save_vote(
                round=vote.round,
                view=vote.view,
                party=vote.party,
                body=event.body,
                signature=event.signature,
            )

    def _against_earlier(self, vote: Vote) -> None:
        for stored in self._folder.votes(vote.round):
            if stored.party == vote.party and decode_vote(stored.body) != vote:
                raise Violation(vote.party, f"two different votes for round {vote.round}")

    def _read(self, peer: str, body: bytes) -> Vote:
        with blaming(peer):
            return decode_vote(body)

    def _in_words(self, event: StatusChanged) -> str:
        status = event.status
        number = trained(plan(self._kinds, self._terms)[: status.round])
        where = f"round {number} " if number else ""
        steps = f", step {status.step} of {status.steps}" if status.steps else ""
        return f"{where}{status.phase}{steps}"
