"""What the round engine asks of the link.

Each request is checked in the engine's thread, where a mistake of ours shows, and carried out in
the link's thread.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import msgspec

from splitfed.errors import Defect
from splitfed.transport.conversation import LEAVING, Conversation
from splitfed.transport.events import STATE, Greeting, NoteKind, Offer, Outgoing, Status
from splitfed.transport.frames import CONTROL_LIMIT, NoteBody, OfferBody, Reason, encode_body
from splitfed.transport.notes import sound

MAX_AWAITED = 256


class Commands:
    """The half of the link that takes requests. The other half carries them out.

    Args:
        me: own roster name.
        peers: roster names of the others.
        conversations: one with each peer and one with the own run, by name.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        me: str,
        peers: Sequence[str],
        conversations: Mapping[str, Conversation],
        clock: Callable[[], float],
    ) -> None:
        self._me = me
        self._peers = tuple(peers)
        self._conversations = conversations
        self._clock = clock

    @abstractmethod
    def _post(self, command: Callable[[], None]) -> None:
        """Have the link's thread run ``command``.

        Raises:
            Defect: that thread stopped by an error of ours.
        """

    def _each(
        self, command: Callable[[Conversation], None], to: Sequence[str] | None = None
    ) -> None:
        """Have it run ``command`` for each peer, or each in ``to``."""
        unknown = set(to or ()) - set(self._peers)
        if unknown:
            raise Defect(f"{', '.join(sorted(unknown))}: no peer of this link")
        peers = self._peers if to is None else tuple(dict.fromkeys(to))

        def run() -> None:
            for peer in peers:
                command(self._conversations[peer])

        self._post(run)

    # --- what is said in every session ---

    def greet(self, greeting: Greeting) -> None:
        """Say this about ourselves in the next handshake of each peer.

        Raises:
            Defect: a field no peer would accept.
        """
        greeting = readable(greeting)

        def set_all() -> None:
            for conversation in self._conversations.values():
                conversation.greeting = greeting

        self._post(set_all)

    def offer(self, outgoing: Outgoing, to: Sequence[str] | None = None) -> None:
        """Offer a payload to every peer, or to those in ``to``, now and after every new
        connection, until :meth:`discard` or an offer to that peer that is two rounds newer.

        Raises:
            Defect: the payload is not what its manifest describes, the manifest is too long
                for one frame, or ``to`` names none of our peers.
        """
        _check(outgoing.offer, outgoing.payload)
        self._each(lambda conversation: conversation.offer(outgoing), to)

    def pass_on(self, offer: Offer, payload: bytes | None, to: Sequence[str]) -> None:
        """Offer to the peers in ``to`` what another party signed, now and after every new
        connection, until :meth:`discard`. ``payload`` None: only the signed offer is known;
        whoever asks for chunks is not answered. A later call may bring the payload.

        Raises:
            Defect: as :meth:`offer`; or the offer is our own, or a state. From :meth:`Link.next`:
                more than :attr:`~.exchange.Settings.passed_on` are kept for a peer.
        """
        if offer.party == self._me or offer.kind == STATE:
            raise Defect(f"{offer.party}'s {offer.kind} is nothing to pass on")
        _check(offer, payload)
        self._each(lambda conversation: conversation.pass_on(offer, payload), to)

    def vote(self, round: int, body: bytes, signature: bytes) -> None:
        """Send a vote to every peer, now and after every new connection, likewise.
        ``signature`` covers :func:`~.events.vote_message` of ``body``."""
        self._each(lambda conversation: conversation.vote(round, body, signature))

    def note(
        self,
        round: int,
        origin: str,
        kind: NoteKind,
        body: bytes,
        signature: bytes,
        to: Sequence[str] | None = None,
    ) -> None:
        """Pass on what ``origin`` (perhaps ourselves) signed to every peer, or to those in
        ``to``, now and after every new connection, until :meth:`discard` of ``round``.
        ``signature`` covers :func:`~.events.note_message` of ``kind`` and ``body``.

        The same (origin, kind, body) again, with a later round, is kept for that round and not
        sent again in the same session. In a new session goes what is of a later round than the
        last that the peer closed.

        Raises:
            Defect: a field that no peer would accept, or ``to`` names none of our peers. From
                :meth:`Link.next`: more than :data:`~.notes.MAX_NOTES` are kept for a peer.
        """
        note = sound(NoteBody(origin, kind, body, signature))
        self._each(lambda conversation: conversation.note(round, note), to)

    def goodbye(self, reason: Reason, closed: int, detail: str = "") -> None:
        """Say to every peer, now and after every new connection, that we leave:
        ``"finished"``, ``"interrupted"``, ``"alone"`` or ``"failed"``; ``closed`` is the
        last round we closed. The link goes on until :meth:`close`."""
        if reason not in LEAVING:
            raise Defect(f"{reason!r} is no reason to leave")
        self._each(lambda conversation: conversation.goodbye(reason, closed, detail))

    # --- what becomes of what was said ---

    def stored(self, peer: str, offer: Offer, counter_signature: bytes) -> None:
        """What ``peer`` announced by ``offer``, its own or one that it passed on, is stored
        durably; tell the peer, now and whenever it offers that again. Also for what was stored in
        an earlier life: it is not pulled again. ``counter_signature`` is our Ed25519 signature
        over the :meth:`~splitfed.entries.Entry.receipt_message` of the offer's entry.

        Raises:
            Defect: a state, which has no entry.
        """
        if offer.kind == STATE:
            raise Defect("a state is in no ledger: nobody is told that it is stored")
        self._post(lambda: self._conversations[peer].stored(offer, counter_signature))

    def look_again(self) -> None:
        """What ``wanted`` and ``accept`` answer may have changed: ask again about what peers pass
        on and nobody wanted, and about what was to be judged later."""
        self._each(lambda conversation: conversation.look_again(self._clock()))

    def discard(self, round: int) -> None:
        """Every peer closed ``round``: forget what belongs to it and to earlier rounds."""
        self._each(lambda conversation: conversation.discard(round))

    def status(
        self,
        phase: str,
        round: int = 0,
        step: int = 0,
        steps: int = 0,
        awaits: Sequence[str] = (),
    ) -> None:
        """What we are doing, and for whose word we wait. Cheap enough to call at every step of
        training.

        Raises:
            Defect: ``phase`` is not of lower-case letters, spaces and hyphens, or more than
                :data:`MAX_AWAITED` are awaited.
        """
        said = next(iter(self._conversations.values())).status
        status = Status(phase, round, step, steps, awaits=tuple(awaits))
        changed = (said.phase, said.round, said.awaits) != (phase, round, status.awaits)
        if changed and not re.fullmatch("[a-z -]{1,32}", phase):
            raise Defect(f"the phase {phase!r} cannot be sent")
        if len(status.awaits) > MAX_AWAITED:
            raise Defect(f"{len(status.awaits)} parties awaited")
        for conversation in self._conversations.values():
            conversation.status = status
        if changed:
            self._post(lambda: None)


def _check(offer: Offer, payload: bytes | None) -> None:
    """
    Raises:
        Defect: see :meth:`Commands.offer`.
    """
    manifest = offer.manifest
    if payload is not None and len(payload) != manifest.total:
        raise Defect(f"{len(payload)} bytes under a manifest of {manifest.total}")
    if len(encode_body(OfferBody(offer))[1]) > CONTROL_LIMIT:
        raise Defect(f"a manifest of {len(manifest.chunks)} chunks does not fit a frame")


def readable(greeting: Greeting) -> Greeting:
    """The greeting, if a peer could read it.

    Raises:
        Defect: a field no peer would accept.
    """
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(greeting), type=Greeting)
    except msgspec.MsgspecError as error:
        raise Defect(f"a greeting that no peer could read: {error}") from error
