"""What is said in a session: payloads, votes, status and goodbyes, kept across sessions.

The half of the conversation that knows *what* there is to say, to the peer and to the
app. Whether there is a session is :mod:`splitfed.transport.handshake`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import blake3

from splitfed.errors import ProtocolViolation
from splitfed.tensors import CHUNK_SIZE
from splitfed.transport.channel import Channel
from splitfed.transport.events import (
    Delivered,
    Greeting,
    Noted,
    Offer,
    Outgoing,
    PeerView,
    Status,
    StatusChanged,
    Voted,
    note_message,
    vote_message,
)
from splitfed.transport.frames import Goodbye, NoteBody, OfferBody, Pull, Reason, StoredBody, Vote
from splitfed.transport.handshake import Handshake
from splitfed.transport.notes import Notes
from splitfed.transport.offers import OfferCheck, Verify, Wanted
from splitfed.transport.receiving import Receiving, Replies
from splitfed.transport.sending import MOST_PASSED_ON, Sending

WINDOW = 32 << 20
STATUS_INTERVAL = 10.0
STALL = 60.0
MAX_VOTES = 64
"""Votes of one peer remembered, to hand up each only once."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers of the protocol; both sides need the same ``chunk_size``.

    ``window``: bytes asked for and not yet here, at most. ``status_interval``: seconds
    between two STATUS, also the patience for an answer to HELLO. ``stall``: seconds
    without a new byte of an open transfer until the connection is made anew. ``passed_on``:
    offers of other parties that one side passes on to the other at once, at most.
    """

    window: int = WINDOW
    chunk_size: int = CHUNK_SIZE
    status_interval: float = STATUS_INTERVAL
    stall: float = STALL
    passed_on: int = MOST_PASSED_ON


class Exchange(Handshake):
    """All that there is to say to ``peer`` and to hear from it. See :class:`Handshake`.

    Attributes:
        sending: our payloads and votes, and what the peer asked for.
        receiving: the peer's payloads.
        notes: what other parties signed, both ways.
        their_status: what the peer said last; ``since_change`` when it last differed.
        left: the peer said goodbye and has not come back.
    """

    def __init__(
        self,
        *,
        me: str,
        peer: str,
        keys: Mapping[str, bytes],
        greeting: Greeting,
        accept: OfferCheck,
        verify: Verify,
        settings: Settings,
        wanted: Wanted = lambda offer: False,
        nonce: Callable[[], bytes] = lambda: os.urandom(16),
        links: Callable[[], dict[str, str]] = dict,
    ) -> None:
        super().__init__(
            me=me,
            peer=peer,
            keys=keys,
            greeting=greeting,
            nonce=nonce,
            status=Status("starting", 0, 0, 0),
            links=links,
        )
        self.settings = settings
        self.sending = Sending(
            window=settings.window,
            chunk_size=settings.chunk_size,
            most_passed_on=settings.passed_on,
        )
        self.receiving = Receiving(
            peer,
            accept=accept,
            verify=verify,
            window=settings.window,
            chunk_size=settings.chunk_size,
            wanted=wanted,
            max_unwanted=settings.passed_on,
        )
        self.notes = Notes()
        self.payload_sent = 0
        self.their_status: Status | None = None
        self.since_change: float | None = None
        self.last_sign_of_life: float | None = None
        self.left = False
        self._verify = verify
        self._goodbye: Goodbye | None = None
        self._goodbye_read = False
        self._votes: dict[bytes, None] = {}
        self._told: Status | None = None
        self._told_at = 0.0

    def _reply(self, channel: Channel, replies: Replies) -> None:
        self.events.extend(replies.events)
        for transfer, round_, ranges in replies.pulls:
            self.control.put(channel, Pull(ranges), transfer=transfer, round=round_)
        for transfer, offer, signature in replies.stored:
            body = StoredBody(offer.manifest.root[:8], signature)
            self.control.put(channel, body, transfer=transfer, round=offer.round)

    def _voted(self, round_: int, body: bytes, signature: bytes) -> None:
        if not self._verify(self.peer, vote_message(body), signature):
            raise ProtocolViolation(f"a VOTE for round {round_} with a bad signature")
        name = blake3.blake3(round_.to_bytes(8, "big") + body).digest()
        if name in self._votes:
            return
        self._votes[name] = None
        if len(self._votes) > MAX_VOTES:
            del self._votes[next(iter(self._votes))]
        self.events.append(Voted(self.peer, round_, body, signature))

    def _noted(self, round_: int, note: NoteBody) -> None:
        message = note_message(note.kind, note.body)
        passed_on = note.origin != self.peer
        signed = self._verify(note.origin, message, note.signature, past=passed_on)
        if signed is False:
            raise ProtocolViolation(
                f"a NOTE ({note.kind}) in the name of {note.origin[:32]!r} with a bad signature"
            )
        if signed and self.notes.first(note):
            event = Noted(self.peer, round_, note.origin, note.kind, note.body, note.signature)
            self.events.append(event)

    def _delivered(self, transfer: int, root: bytes, counter_signature: bytes) -> None:
        offer = self.sending.stored(transfer, root)
        if offer is None:
            return
        message = offer.entry.receipt_message(self.peer)
        if not self._verify(self.peer, message, counter_signature):
            raise ProtocolViolation(
                f"a STORED for round {offer.round} with a bad counter-signature"
            )
        self.events.append(Delivered(self.peer, offer, counter_signature))

    def _heard(self, status: Status, now: float) -> None:
        if status != self.their_status:
            if status.progressed(self.their_status):
                self.since_change = now
            self.their_status = status
            self.events.append(StatusChanged(self.peer, status))

    # --- sessions begin and end ---

    def _opened(self, *, new_life: bool, now: float) -> None:
        channel, self.left = self.current, False
        if channel is None or channel.theirs is None:
            raise AssertionError("a session without a greeting")
        theirs = channel.theirs
        if new_life:
            self.sending.forget_delivered()
        self.sending.open()
        self.receiving.open()
        self.notes.open()
        self._told = None
        if theirs.open_vote is not None:
            if theirs.open_vote_signature is None:
                raise ProtocolViolation("a greeting with an unsigned vote")
            if not self._verify(
                self.peer, vote_message(theirs.open_vote), theirs.open_vote_signature
            ):
                raise ProtocolViolation("a greeting with a vote of a bad signature")
        for offer in self.sending.due(theirs.closed_round):
            self._send_offer(channel, offer)
        for round_, vote in self.sending.due_votes(theirs.closed_round):
            self.control.put(channel, vote, round=round_)
        for round_, note in self.notes.due(theirs.closed_round):
            self._send_note(channel, round_, note)
        if self._goodbye is not None:
            # Also one that was read: to the peer, a new session means that we are back.
            self._goodbye_read = False
            self._farewell(channel, self._goodbye)

    def _ended(self) -> None:
        self.sending.open()
        self.receiving.open()
        if self.error is not None:
            self.receiving.clear()

    def _send_offer(self, channel: Channel, offer: Offer) -> None:
        transfer = self.sending.number(offer)
        self.control.put(channel, OfferBody(offer), round=offer.round, transfer=transfer)

    def _send_note(self, channel: Channel, round_: int, note: NoteBody) -> None:
        self.notes.told(note)
        self.control.put(channel, note, round=round_)

    # --- what the app says ---

    def offer(self, outgoing: Outgoing) -> None:
        """Offer a payload now and in every later session, until :meth:`discard`."""
        self.sending.keep(outgoing)
        if self.current is not None and not self.sending.offered(outgoing.offer):
            self._send_offer(self.current, outgoing.offer)

    def pass_on(self, offer: Offer, payload: bytes | None) -> None:
        """Offer what another party signed, likewise."""
        self.sending.pass_on(offer, payload)
        if self.current is not None and not self.sending.offered(offer):
            self._send_offer(self.current, offer)

    def note(self, round_: int, note: NoteBody) -> None:
        """Pass a note on now and in every later session, until :meth:`discard`."""
        if self.notes.keep(round_, note) and self.current is not None:
            self._send_note(self.current, round_, note)

    def vote(self, round_: int, body: bytes, signature: bytes) -> None:
        """Send a vote now and in every later session, until :meth:`discard`."""
        vote = Vote(body, signature)
        self.sending.keep_vote(round_, vote)
        if self.current is not None:
            self.control.put(self.current, vote, round=round_)

    def stored(self, offer: Offer, counter_signature: bytes) -> None:
        """The app holds what this offer of the peer announced durably."""
        replies = Replies()
        self.receiving.stored(offer, counter_signature, replies)
        if self.current is not None:
            self._reply(self.current, replies)

    def discard(self, round_: int) -> None:
        """Everybody closed ``round_``: drop what belongs to it or to earlier rounds."""
        self.sending.discard(round_)
        self.receiving.discard(round_)
        self.notes.discard(round_)

    def goodbye(self, reason: Reason, closed: int, detail: str = "") -> None:
        """Say goodbye now and in every later session."""
        self._goodbye, self._goodbye_read = Goodbye(reason, closed, detail=detail[:256]), False
        if self.current is not None:
            self._farewell(self.current, self._goodbye)

    # --- views ---

    @property
    def settled(self) -> bool:
        """Nothing is left to say. A peer that we met and that waits for our last word is
        given the time to connect again: a break may have swallowed it."""
        owed = self._goodbye is not None and self._goodbye.reason == "finished"
        met = self._life is not None and self.error is None
        return super().settled and not (owed and met and not self._goodbye_read)

    @property
    def view(self) -> PeerView:
        """How things stand, for the operator. Safe to call from another thread."""
        if self.error is not None:
            state = "failed"
        elif self.left:
            state = "left"
        elif self.current is not None:
            state = "connected"
        else:
            state = "greeting" if self.channels else "absent"
        waiting = [
            f"{self._named(assembly.offer)} of round {assembly.offer.round}: {assembly.missing} "
            f"of {len(assembly.offer.manifest.chunks)} chunks"
            for assembly in self.receiving.incomplete
        ]
        return PeerView(
            state=state,
            status=self.their_status,
            since_change=self.since_change,
            last_sign_of_life=self.last_sign_of_life,
            awaiting=", ".join(waiting),
            moved=self.payload_sent + self.receiving.payload_bytes,
        )

    def _named(self, offer: Offer) -> str:
        return offer.kind if offer.party == self.peer else f"{offer.party}'s {offer.kind}"
