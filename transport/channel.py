"""One connection as the conversation sees it, and the frames that wait to go out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from splitfed.transport.allowance import Allowance
from splitfed.transport.events import Greeting
from splitfed.transport.frames import NO_SESSION, Body, Header, Type, encode_body
from splitfed.transport.states import Role, State
from splitfed.transport.wire import Buffer


@dataclass(slots=True, eq=False)
class Channel:
    """One connection.

    Attributes:
        session: the name of the session on it; zeros if none.
        sent: frames we sent in the session; the next one carries the number after.
        seen: the number of the last frame of the session that we took.
        nonce: our nonce of the running handshake.
        theirs: what the peer said of itself on this connection.
        since: clock when the state was entered.
        heard: clock at the last frame of the session.
        reset: a RESET was sent since the last handshake; a second would say no more.
        farewell: a GOODBYE of ours is out and not acknowledged.
        allowance: what it may still send that brings nothing.
        ignored: messages that came after it was closed.
    """

    connection: bytes
    role: Role
    state: State
    since: float
    heard: float = 0.0
    session: bytes = NO_SESSION
    sent: int = 0
    seen: int = 0
    nonce: bytes = b""
    theirs: Greeting | None = None
    reset: bool = False
    farewell: bool = False
    allowance: Allowance = field(default_factory=Allowance)
    ignored: int = 0


@dataclass(slots=True, eq=False)
class Frame:
    """A frame that waits to be sent; ``numbered`` ones count in their session."""

    channel: Channel
    type: Type
    body: Buffer
    session: bytes
    numbered: bool
    round: int = 0
    transfer: int = 0
    chunk: int = 0
    offset: int = 0
    probe: bool = False

    def header(self) -> bytes:
        """The 64 bytes; the number is taken when the frame goes, not when it is queued."""
        return Header(
            self.type,
            session=self.session,
            round=self.round,
            transfer=self.transfer,
            sequence=self.channel.sent + 1 if self.numbered else 0,
            offset=self.offset,
            length=len(self.body),
            chunk=self.chunk,
        ).encode()


@dataclass(slots=True)
class ControlQueue:
    """Control frames in the order in which they go."""

    frames: deque[Frame] = field(default_factory=deque)

    def put(
        self,
        channel: Channel,
        body: Body,
        *,
        session: bytes | None = None,
        numbered: bool | None = None,
        round: int = 0,
        transfer: int = 0,
        probe: bool = False,
    ) -> None:
        """Queue a control frame, by default in the channel's session."""
        kind, data = encode_body(body)
        name = channel.session if session is None else session
        in_session = name != NO_SESSION if numbered is None else numbered
        frame = Frame(channel, kind, data, name, in_session, round, transfer, probe=probe)
        self.frames.append(frame)

    def drop_session(self, session: bytes) -> None:
        """The session ended: what was to be said in it is not said any more."""
        self.frames = deque(
            frame for frame in self.frames if not (frame.numbered and frame.session == session)
        )

    def drop_channel(self, channel: Channel) -> None:
        """The connection is gone."""
        self.frames = deque(frame for frame in self.frames if frame.channel is not channel)
