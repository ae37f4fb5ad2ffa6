"""The conversation with one peer: sessions, transfers, votes and timers, without I/O.

Everything that happens comes in as a call with the clock's reading; what is to be sent is
taken from :meth:`Conversation.peek`, what the app should know from ``events``. The frame
types that make sense in a state stand in one table (:mod:`splitfed.transport.states`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from splitfed.errors import (
    Defect,
    LinkDown,
    PeerStalled,
    ProtocolViolation,
    ResourceLimit,
    SplitfedError,
)
from splitfed.transport.channel import Channel, Frame
from splitfed.transport.events import Greeting, Left, Noticed
from splitfed.transport.exchange import Exchange, Settings
from splitfed.transport.frames import (
    VERSION,
    Goodbye,
    Header,
    Hello,
    NoteBody,
    OfferBody,
    Pull,
    Reset,
    StatusBody,
    StoredBody,
    Type,
    Vote,
    Welcome,
    decode_body,
    decode_header,
)
from splitfed.transport.offers import OfferCheck, Verify, Wanted
from splitfed.transport.receiving import Replies
from splitfed.transport.states import TABLE, Action, Role, State
from splitfed.transport.wire import Buffer, Message

STATUS_GAP = 1.0
"""Seconds between two STATUS at least: a change of phase is told at once, but a party
that runs through its phases in a moment does not spend its wire bytes on telling so."""
PATIENT_HELLOS = 3
SILENT_INTERVALS = 6
"""STATUS that may stay out until a session is taken for dead, whatever its connection says:
libzmq answers heartbeats for a peer that is not in session with us any more."""
MOST_IGNORED = 256
"""Messages on a closed connection until it is dropped: some may have been on their way."""
LEAVING = ("finished", "interrupted", "alone", "failed")
"""Reasons that the app says goodbye with; all others are the link's own."""


class Conversation(Exchange):
    """All that is said with ``peer``, over all connections."""

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
            accept=accept,
            verify=verify,
            settings=settings,
            wanted=wanted,
            nonce=nonce,
            links=links,
        )
        self._hellos_unanswered = 0
        self._peeked: Frame | None = None
        self._full: set[bytes] = set()

    # --- frames in ---

    def received(self, message: Message, now: float) -> None:
        """One message of the wire; a violation in it ends this peer, nothing else."""
        self.last_sign_of_life = now
        channel = self.channel_of(message.connection, now)
        if channel is None:
            self.stale += 1
            self.unwanted.append(message.connection)
            return
        if channel.state is State.CLOSED:
            channel.ignored += 1
            if channel.ignored > MOST_IGNORED:
                self.unwanted.append(message.connection)
                return
        try:
            self._dispatch(channel, decode_header(message.header), message.body, now)
        except ProtocolViolation as error:
            self._violated(channel, error)

    def _dispatch(self, channel: Channel, header: Header, body: Buffer, now: float) -> None:
        if not channel.allowance.take(now):
            raise ResourceLimit("more frames than any honest peer: a flood")
        if header.version != VERSION:
            raise ProtocolViolation(f"a {header.type.name} of protocol version {header.version}")
        greeting = header.type in (Type.HELLO, Type.WELCOME)
        if not greeting and header.session != channel.session:
            self.forget_session(channel, header)
            return
        action = TABLE[channel.role, channel.state].get(header.type)
        if action is None:
            raise ProtocolViolation(
                f"a {header.type.name} where {channel.role.value} and {channel.state.value}"
            )
        if action is Action.STALE:
            self.stale += 1
            return
        if channel.state is State.OPEN and header.type not in (Type.HELLO, Type.RESET):
            if header.sequence <= channel.seen:
                self.stale += 1
                return
            if header.sequence > channel.seen + 1:
                self._lost(channel, header, now)
                return
            channel.seen, channel.heard = header.sequence, now
        if action is Action.DATA:
            replies, known = Replies(), self.receiving.duplicates
            self.receiving.data(header, body, now, replies)
            if self.receiving.duplicates == known:
                channel.allowance.earn()
            self._reply(channel, replies)
        else:
            self._control(action, channel, header, body, now)

    def _control(
        self, action: Action, channel: Channel, header: Header, data: Buffer, now: float
    ) -> None:
        match action, decode_body(header, data):
            case Action.GREET, Hello() as hello:
                self.greet(channel, header, hello, now)
            case Action.WELCOME, Welcome() as welcome:
                self._hellos_unanswered = 0
                self.welcome(channel, header, welcome, now)
            case Action.GREET_AGAIN, Reset():
                self.greet_again(channel, now)
            case Action.OFFER, OfferBody(offer):
                replies = Replies()
                self.receiving.offered(header, offer, now, replies)
                self._reply(channel, replies)
            case Action.PULL, Pull(ranges):
                self.stale += not self.sending.pulled(header.transfer, ranges)
            case Action.STORED, StoredBody(root, counter_signature):
                self._delivered(header.transfer, root, counter_signature)
            case Action.VOTE, Vote(body, signature):
                self._voted(header.round, body, signature)
            case Action.NOTE, NoteBody() as note:
                self._noted(header.round, note)
            case Action.STATUS, StatusBody(status):
                self._heard(status, now)
            case _, Goodbye(acknowledges=True):
                channel.farewell = False
                self._goodbye_read = self._goodbye_read or channel is self.current
            case Action.GOODBYE, Goodbye() as goodbye:
                self._left(channel, goodbye)
            case Action.REFUSED, Goodbye() as goodbye:
                self.refused(channel, goodbye)
            case Action.DOCUMENTS, Goodbye() as goodbye:
                self.documents(channel, goodbye)
            case _:  # the table and the handlers name the same pairs; a test holds them to it
                raise Defect(f"no handler for {action.name} of a {header.type.name}")

    def look_again(self, now: float) -> None:
        """What the app wants of others' payloads may have changed."""
        if (channel := self.current) is None:
            return
        replies, violation = Replies(), None
        try:
            self.receiving.look_again(now, replies)
        except ProtocolViolation as error:
            violation = error
        self._reply(channel, replies)
        if violation is not None:
            self._violated(channel, violation)

    def _left(self, channel: Channel, goodbye: Goodbye) -> None:
        if channel is self.current and goodbye.reason not in LEAVING:
            self.refused(channel, goodbye)
            return
        self.acknowledge(channel)
        if channel is self.current:
            self.left = True
            self.events.append(Left(self.peer, goodbye.reason, goodbye.closed))

    def _lost(self, channel: Channel, header: Header, now: float) -> None:
        """A number was skipped: the carrier lost a message. Only a new session mends that."""
        session = channel.session
        self.greet_again(channel, now)
        if channel.role is Role.ACCEPTED:
            channel.reset = True
            self.control.put(channel, Reset(), session=session, numbered=False)

    def _violated(self, channel: Channel, error: ProtocolViolation) -> None:
        """End the peer; but a stray connection beside a sound session ends only itself."""
        beside = self.current is not None and channel is not self.current
        mended = type(error)(
            f"{self.peer} sent {error.message}",
            f"ask {self.peer} which version of splitfed it runs and whether it was changed",
        )
        mended.evidence = error.evidence
        if beside or channel.state in (State.CHECKED, State.CLOSED):
            channel.state = State.CLOSED
            self.events.append(Noticed(self.peer, mended))
        else:
            self.fail(mended)
            channel.state = State.CLOSED

    def trouble(self, error: SplitfedError, fatal: bool, connection: bytes | None = None) -> None:
        """The wire's diagnosis. As in :meth:`_violated`, a stray connection ends only itself."""
        held = self.current
        if fatal and connection is not None and held and held.connection != connection:
            if (channel := self.channels.get(connection)) is not None:
                channel.state = State.CLOSED
            self.unwanted.append(connection)
            self.events.append(Noticed(self.peer, error))
        elif fatal:
            self.fail(error)
        elif self.error is None:
            self.events.append(Noticed(self.peer, error))

    # --- timers ---

    def tick(self, now: float) -> None:
        """Do what is due by the clock."""
        for channel in list(self.channels.values()):
            if channel.state is State.GREETING and now >= self._greeting_due(channel):
                self._greet_late(channel, now)
            elif channel.state is State.DIFFERING and now >= self._greeting_due(channel):
                self._remove(channel, "no answer about the difference")
        if self.current is not None:
            if now >= self._status_due():
                self._told, self._told_at = self.status, now
                self.control.put(self.current, StatusBody(self.status))
            if now >= self._silent_due(self.current):
                limit = f"{self._silence:g} s"
                self._dial_anew(self.current, f"nothing heard of {self.peer} for {limit}", now)
            elif now >= self._stall_due():
                limit = f"{self.settings.stall:g} s"
                self._dial_anew(
                    self.current, f"no new byte of {self.peer}'s payload for {limit}", now
                )

    def deadline(self) -> float:
        """The clock's reading at which :meth:`tick` has something to do, or infinity."""
        dues = [
            self._greeting_due(channel)
            for channel in self.channels.values()
            if channel.state in (State.GREETING, State.DIFFERING)
        ]
        if self.current is not None:
            dues += [self._status_due(), self._stall_due(), self._silent_due(self.current)]
        return min(dues, default=float("inf"))

    def _greeting_due(self, channel: Channel) -> float:
        return channel.since + self.settings.status_interval

    def _status_due(self) -> float:
        told = self._told
        if told is None:
            return float("-inf")
        said = self.status
        changed = (told.phase, told.round) != (said.phase, said.round)
        changed |= said.awaits not in ((), told.awaits)
        return self._told_at + (STATUS_GAP if changed else self.settings.status_interval)

    def _stall_due(self) -> float:
        if not self.receiving.active:
            return float("inf")
        return self.receiving.progress + self.settings.stall

    @property
    def _silence(self) -> float:
        """Seconds without any frame of a peer in session, which sends STATUS all the time."""
        return max(self.settings.stall, SILENT_INTERVALS * self.settings.status_interval)

    def _silent_due(self, channel: Channel) -> float:
        return channel.heard + self._silence

    def _greet_late(self, channel: Channel, now: float) -> None:
        self._hellos_unanswered += 1
        if self._hellos_unanswered < PATIENT_HELLOS:
            self._hello(channel, now)
            return
        self._hellos_unanswered = 0
        error = LinkDown(f"{self.peer} took our connection but does not answer; dialing anew")
        self.events.append(Noticed(self.peer, error))
        self._remove(channel, "no answer to our greeting")
        self.wants_rebuild = True

    def _dial_anew(self, channel: Channel, why: str, now: float) -> None:
        """The carrier thinks that the connection lives, and it brings us nothing."""
        error = PeerStalled(
            f"{why}; connecting anew",
            "nothing to do: the transfer goes on where it stopped; if this recurs, look at "
            "the network between you",
        )
        self.events.append(Noticed(self.peer, error))
        session = channel.session
        if channel.role is Role.DIALED:
            self._remove(channel, "stalled")
            self.wants_rebuild = True
        else:
            self.greet_again(channel, now)
            channel.reset = True
            self.control.put(channel, Reset(), session=session, numbered=False)

    # --- frames out ---

    def peek(self) -> tuple[str, bytes, bytes, Buffer] | None:
        """The message to send next: (peer, connection, header, body), or None. Control
        frames go before chunks. Follow up with :meth:`took`, :meth:`no_room` or
        :meth:`refused_by_wire`."""
        frame = self._peeked = self._next()
        if frame is None:
            return None
        return self.peer, frame.channel.connection, frame.header(), frame.body

    def _next(self) -> Frame | None:
        for frame in self.control.frames:
            if frame.channel.connection not in self._full:
                return frame
        if self.current is None or self.current.connection in self._full:
            return None
        chunk = self.sending.peek()
        if chunk is None:
            return None
        return Frame(
            self.current,
            Type.DATA,
            chunk.body,
            self.current.session,
            True,
            chunk.round,
            chunk.transfer,
            chunk.chunk,
            chunk.offset,
        )

    def took(self) -> None:
        """The wire took the message that :meth:`peek` showed."""
        frame, self._peeked = self._peeked, None
        if frame is None:
            raise AssertionError("took() without peek()")
        if frame.type is Type.DATA:
            self.sending.pop()
            self.payload_sent += len(frame.body)
            frame.channel.allowance.earn()
        else:
            self.control.frames.remove(frame)
        if frame.numbered:
            frame.channel.sent += 1
        if frame.probe:
            self.probed()

    def no_room(self) -> None:
        """The wire has no room on that connection; others go on until :meth:`try_again`."""
        frame, self._peeked = self._peeked, None
        if frame is not None:
            self._full.add(frame.channel.connection)

    def try_again(self) -> None:
        """There may be room again."""
        self._full.clear()

    def refused_by_wire(self) -> None:
        """The connection of the message that :meth:`peek` showed is gone."""
        frame, self._peeked = self._peeked, None
        if frame is not None:
            self.gone(frame.channel)
