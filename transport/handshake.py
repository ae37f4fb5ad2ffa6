"""Connections and sessions with one peer: greeting, fencing, refusing, taking leave.

The half of the conversation that decides *whether* there is a session. What happens in
one is :mod:`splitfed.transport.exchange`. No I/O and no clock: ``now`` is passed in.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping

import msgspec

from splitfed.errors import KeyInUse, LinkDown, PeerError, ProtocolViolation, SplitfedError
from splitfed.transport.channel import Channel, ControlQueue
from splitfed.transport.events import Event, Failed, Greeted, Greeting, LinkBroken, Noticed, Status
from splitfed.transport.frames import (
    NO_SESSION,
    Goodbye,
    Header,
    Hello,
    Reason,
    Reset,
    StatusBody,
    Type,
    Welcome,
)
from splitfed.transport.greetings import addressed, mismatch, mismatch_error, session_name, succeeds
from splitfed.transport.states import Role, State

MAX_CHANNELS = 8
"""Accepted connections of one peer that are remembered; the oldest idle one goes first."""


class Handshake:
    """Everything about connections with ``peer``.

    Attributes:
        greeting: what we say about ourselves in the next handshake.
        current: the channel in session, or None.
        error: why this peer is finished for us, or None.
        events: what happened, for the app; taken by the link.
        control: frames to send.
        wants_rebuild: the connection we dialed should be thrown away and dialed anew.
        unwanted: connections that the wire is to drop.
        reconnects: sessions after the first.
        stale: messages of earlier sessions or before any, dropped.
    """

    def __init__(
        self,
        *,
        me: str,
        peer: str,
        keys: Mapping[str, bytes],
        greeting: Greeting,
        nonce: Callable[[], bytes],
        status: Status,
        links: Callable[[], dict[str, str]],
    ) -> None:
        self.peer = peer
        self.greeting = greeting
        self.status = status
        self.channels: dict[bytes, Channel] = {}
        self.current: Channel | None = None
        self.error: SplitfedError | None = None
        self.events: list[Event] = []
        self.control = ControlQueue()
        self.wants_rebuild = False
        self.unwanted: list[bytes] = []
        self.reconnects = 0
        self.stale = 0
        self._own = me == peer
        self._keys = (keys[me], keys[peer])
        self._nonce = nonce
        self._links = links
        self._dials = False
        self._hellos = 0
        self._life: tuple[bytes, int] | None = None
        self._newcomer: tuple[Channel, Header, Hello, float] | None = None

    # --- hooks for the exchange ---

    @abstractmethod
    def _opened(self, *, new_life: bool, now: float) -> None:
        """A session began; ``new_life``: not the process we last spoke with."""

    @abstractmethod
    def _ended(self) -> None:
        """The session ended."""

    # --- what the wire tells ---

    def up(self, connection: bytes, now: float) -> None:
        """We dialed and the carrier's handshake is done: HELLO, every time."""
        self._dials = True
        for channel in [c for c in self.channels.values() if c.role is Role.DIALED]:
            self._remove(channel, "connected anew")
        channel = Channel(connection, Role.DIALED, State.GREETING, now)
        self.channels[connection] = channel
        if self.error is None:
            self._hello(channel, now)
        else:
            channel.state = State.CLOSED

    def down(self, connection: bytes | None, reason: str) -> None:
        """A connection ended; where the carrier cannot say which, sending will tell."""
        if connection is not None:
            if connection in self.channels:
                self._remove(self.channels[connection], reason)
        elif self.current is not None:
            self._probe(self.current)

    def gone(self, channel: Channel) -> None:
        """The wire says that this connection no longer exists."""
        if self.channels.get(channel.connection) is channel:
            self._remove(channel, "the connection is gone")
        self.control.drop_channel(channel)

    def probed(self) -> None:
        """The current connection took a frame: it lives, so a newcomer is refused."""
        if self._newcomer is None:
            return
        channel, _, hello, _ = self._newcomer
        self._newcomer = None
        detail = f"folder {hello.greeting.folder.hex()[:8]}, boot {hello.greeting.boot}"
        self._refuse(channel, "key-in-use", detail)
        error = KeyInUse(
            f"a second process greeted us with the key of {self.peer} ({detail}); refused",
            f"ask {self.peer} to run only one splitfed with this key",
        )
        self.events.append(Noticed(self.peer, error))

    def channel_of(self, connection: bytes, now: float) -> Channel | None:
        """The channel a message came on; None for one of a connection we gave up."""
        channel = self.channels.get(connection)
        if channel is None and not self._dials:
            channel = Channel(connection, Role.ACCEPTED, State.NEW, now)
            self.channels[connection] = channel
            self._prune()
        return channel

    def _prune(self) -> None:
        idle = [
            c
            for c in self.channels.values()
            if c is not self.current and not (self._newcomer and c is self._newcomer[0])
        ]
        for channel in idle[: max(0, len(self.channels) - MAX_CHANNELS)]:
            self._remove(channel, "forgotten")
            self.unwanted.append(channel.connection)

    # --- greeting ---

    def _hello(self, channel: Channel, now: float) -> None:
        self._hellos += 1
        channel.state, channel.since, channel.session = State.GREETING, now, NO_SESSION
        channel.nonce = self._nonce()
        body = Hello(channel.nonce, addressed(self.greeting, self.peer))
        self.control.put(channel, body, transfer=self._hellos)

    def greet(self, channel: Channel, header: Header, hello: Hello, now: float) -> None:
        """Answer a HELLO: a session, a check's answer, the differences, or a refusal."""
        theirs, held = hello.greeting, self.current
        checking = "check" in (self.greeting.purpose, theirs.purpose)
        if self.error is not None:
            self._refuse(channel, "failed", self.error.message)
        elif self._own and theirs.purpose != "check":
            self._refuse(channel, "key-in-use", "this is the listener's own key")
        elif (reason := mismatch(self.greeting, theirs)) is not None:
            self._leave_session(channel, "greeted anew")
            documents = addressed(self.greeting, self.peer, documents=reason == "contract")
            channel.theirs, channel.since, channel.farewell = theirs, now, True
            channel.state = State.CHECKED if checking else State.DIFFERING
            self.control.put(channel, Welcome(self._nonce(), documents), transfer=header.transfer)
        elif theirs.name != self.peer:
            raise ProtocolViolation(f"a HELLO in the name of {theirs.name[:32]!r}")
        elif checking:
            self._leave_session(channel, "greeted anew")
            self._answer_check(channel, header, theirs)
        elif held is None or held is channel or succeeds(theirs, held.theirs):
            self._take(channel, header, hello, now)
        else:
            self._newcomer = (channel, header, hello, now)
            self._probe(held)

    def _answer_check(self, channel: Channel, header: Header, theirs: Greeting) -> None:
        channel.state, channel.theirs = State.CHECKED, theirs
        body = Welcome(self._nonce(), addressed(self.greeting, self.peer))
        self.control.put(channel, body, transfer=header.transfer)
        if self.greeting.purpose == "check":
            self.events.append(Greeted(self.peer, theirs))
        elif self._own:
            status = msgspec.structs.replace(self.status, links=self._links())
            self.control.put(channel, StatusBody(status))

    def _take(self, channel: Channel, header: Header, hello: Hello, now: float) -> None:
        self._leave_session(channel, "greeted anew")
        if self.current is not None:
            self._fence(self.current, hello.greeting)
        nonce = self._nonce()
        channel.session = session_name(
            dialer=self._keys[1],
            listener=self._keys[0],
            nonces=(hello.nonce, nonce),
            contract=self.greeting.contract,
        )
        body = Welcome(nonce, addressed(self.greeting, self.peer))
        self.control.put(channel, body, numbered=False, transfer=header.transfer)
        self._open(channel, hello.greeting, now)

    def _fence(self, old: Channel, theirs: Greeting) -> None:
        """A later life of the same folder took over; tell the earlier one, if it is one."""
        held, session = old.theirs, old.session
        self._end("another connection took over")
        # Of the same process, the one left behind need not be the older one: HELLOs of two
        # connections can be read in the wrong order. A frame on it is answered by RESET.
        old.state = State.NEW
        if held is not None and held.boot < theirs.boot:
            old.state = State.CLOSED
            body = Goodbye("key-in-use", detail="a later process of the same folder took over")
            self.control.put(old, body, session=session)

    def welcome(self, channel: Channel, header: Header, welcome: Welcome, now: float) -> None:
        """The answer to our HELLO."""
        theirs = welcome.greeting
        checking = "check" in (self.greeting.purpose, theirs.purpose)
        if header.transfer != self._hellos:
            self.stale += 1
        elif (reason := mismatch(self.greeting, theirs)) is not None:
            if self.greeting.purpose == "check" or not checking:
                self.fail(mismatch_error(self.peer, reason, self.greeting, theirs), tell=False)
            channel.state = State.CLOSED if self.error else State.CHECKED
            contract, roster = "", ""
            if reason == "contract":
                contract, roster = self.greeting.contract_document, self.greeting.roster_document
            self._farewell(channel, Goodbye(reason, contract=contract, roster=roster))
        elif theirs.name != self.peer:
            raise ProtocolViolation(f"a WELCOME in the name of {theirs.name[:32]!r}")
        elif checking:
            channel.state, channel.theirs = State.CHECKED, theirs
            if self.greeting.purpose == "check":
                self.events.append(Greeted(self.peer, theirs))
        else:
            channel.session = session_name(
                dialer=self._keys[0],
                listener=self._keys[1],
                nonces=(channel.nonce, welcome.nonce),
                contract=self.greeting.contract,
            )
            if header.session != channel.session:
                raise ProtocolViolation("a WELCOME with another session than the greetings give")
            self._open(channel, theirs, now)

    def greet_again(self, channel: Channel, now: float) -> None:
        """The peer does not know our session, or a message in it was lost."""
        self._end("the session was reset")
        if channel.role is Role.DIALED:
            self._hello(channel, now)
        else:
            channel.state = State.NEW

    # --- sessions ---

    def _open(self, channel: Channel, theirs: Greeting, now: float) -> None:
        life = (theirs.folder, theirs.boot)
        new_life, first = life != self._life, self._life is None
        self._life = life
        self.reconnects += not first
        self.current = channel
        channel.state, channel.theirs, channel.since = State.OPEN, theirs, now
        channel.heard = now
        channel.sent = channel.seen = 0
        channel.reset = channel.farewell = False
        self.events.append(Greeted(self.peer, theirs))
        self._opened(new_life=new_life, now=now)

    def _leave_session(self, channel: Channel, reason: str) -> None:
        """``channel`` gets a handshake: a session on it is over."""
        if channel is self.current:
            self._end(reason)
        channel.state, channel.session = State.NEW, NO_SESSION

    def _end(self, reason: str) -> None:
        channel, self.current = self.current, None
        if channel is not None:
            self.control.drop_session(channel.session)
            channel.session = NO_SESSION
            channel.farewell = False
            self.events.append(LinkBroken(self.peer, reason))
            self._ended()

    def _remove(self, channel: Channel, reason: str) -> None:
        """Forget a connection that is gone, and draw the consequences."""
        del self.channels[channel.connection]
        self.control.drop_channel(channel)
        if self._newcomer is not None and self._newcomer[0] is channel:
            self._newcomer = None
        if channel.state is State.DIFFERING and channel.theirs is not None:
            self._differ(channel.theirs)
        if channel is self.current:
            self._end(reason)
            if self._newcomer is not None:
                newcomer, self._newcomer = self._newcomer, None
                self.greet(*newcomer)

    def _probe(self, channel: Channel) -> None:
        self.control.put(channel, StatusBody(self.status), probe=True)

    def forget_session(self, channel: Channel, header: Header) -> None:
        """A message of a session we do not know: count it, and tell the dialer once."""
        self.stale += 1
        answerable = channel.role is Role.ACCEPTED and channel.state is not State.CLOSED
        known_type = header.type not in (Type.HELLO, Type.WELCOME, Type.RESET, Type.GOODBYE)
        if answerable and known_type and header.session != NO_SESSION and not channel.reset:
            channel.reset = True
            self.control.put(channel, Reset(), session=header.session, numbered=False)

    # --- leaving and refusing ---

    def _farewell(self, channel: Channel, body: Goodbye) -> None:
        channel.farewell = True
        self.control.put(channel, body)

    def _refuse(self, channel: Channel, reason: Reason, detail: str) -> None:
        self._leave_session(channel, "refused")
        self.control.put(channel, Goodbye(reason, detail=detail[:256]))

    def acknowledge(self, channel: Channel) -> None:
        """Say that the peer's GOODBYE was read, so that it need not wait any longer."""
        self.control.put(channel, Goodbye("finished", acknowledges=True))

    def documents(self, channel: Channel, goodbye: Goodbye) -> None:
        """The dialer's side of a difference, or a checker that leaves."""
        channel.farewell = False
        differing = channel.state is State.DIFFERING or self.greeting.purpose == "check"
        if channel.theirs is not None and differing:
            self._differ(
                msgspec.structs.replace(
                    channel.theirs,
                    contract_document=goodbye.contract,
                    roster_document=goodbye.roster,
                )
            )
        channel.state = State.CLOSED
        self.acknowledge(channel)

    def _differ(self, theirs: Greeting) -> None:
        reason = mismatch(self.greeting, theirs)
        if reason is not None:
            self.fail(mismatch_error(self.peer, reason, self.greeting, theirs), tell=False)

    def refused(self, channel: Channel, goodbye: Goodbye) -> None:
        """The peer answers a GOODBYE where we expected a WELCOME or went on in session."""
        if channel.state is State.GREETING:
            channel.state = State.CLOSED
        if goodbye.reason == "key-in-use":
            error: PeerError = KeyInUse(
                f"{self.peer} speaks with another process that uses our key ({goodbye.detail})",
                "stop the other process; `splitfed status` on its run folder shows what it does",
            )
            self.fail(error, tell=False)
        elif goodbye.reason == "failed":
            error = LinkDown(f"{self.peer} cannot go on with us: {goodbye.detail}")
            self.events.append(Noticed(self.peer, error))
        else:
            error = PeerError(
                f"{self.peer} ended the session ({goodbye.reason}): {goodbye.detail}",
                "compare the versions of splitfed on both sides",
            )
            self.fail(error, tell=False)
        self.acknowledge(channel)

    def fail(self, error: SplitfedError, *, tell: bool = True) -> None:
        """The end of this peer for us: report it once, ignore everything after. ``tell``:
        say why in the session, if there is one."""
        if self.error is not None:
            return
        self.error = error
        self._newcomer = None
        current, self.current = self.current, None
        if current is not None:
            self.control.drop_session(current.session)
        self._ended()
        for channel in self.channels.values():
            channel.state = State.CLOSED
        if current is not None and tell:
            self._farewell(current, Goodbye("violation", detail=error.message[:256]))
        self.events.append(Failed(self.peer, error))

    @property
    def settled(self) -> bool:
        """Nothing is left to say, and every goodbye of ours was acknowledged."""
        return not self.control.frames and not any(c.farewell for c in self.channels.values())
