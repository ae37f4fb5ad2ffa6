"""What a link asks of whatever carries its bytes: authenticated, ordered, unreliable.

A wire authenticates peers, keeps the order of the messages of one *connection* and tells
apart "delivered to the carrier", "no room now" and "that connection is gone". It promises
nothing else: what was in flight when a connection broke is lost without a word, and the
conversation above it (:mod:`splitfed.transport.conversation`) makes up for that.

All methods are called from one thread, the link's own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from splitfed.errors import SplitfedError

Buffer = bytes | memoryview
"""A message part. What a wire is given to send is never changed afterwards."""


class Sent(enum.Enum):
    """What became of one message handed to :meth:`Wire.send`."""

    SENT = "sent"
    """The carrier took it. No receipt: it is lost if the connection breaks."""
    BUSY = "busy"
    """No room now; nothing of it was taken. The link tries the same message again after
    the next :meth:`Wire.poll`, which it then asks to return within milliseconds."""
    GONE = "gone"
    """The connection no longer exists. Nothing can be sent to it ever again."""


@dataclass(frozen=True, slots=True)
class Up:
    """A connection that *we* dialed finished its handshake; ``peer`` is authenticated.

    Each handshake gets a new ``connection`` name, also when the carrier reconnects by
    itself. A listener has no such event: it learns of a connection by its first message.
    """

    peer: str
    connection: bytes


@dataclass(frozen=True, slots=True)
class Down:
    """A connection ended. ``connection`` is None where the carrier cannot tell which of
    the peer's connections it was; the link then finds out by sending."""

    peer: str
    connection: bytes | None
    reason: str


@dataclass(frozen=True, slots=True)
class Message:
    """One message of two parts. ``peer`` is the roster name that belongs to the key which
    the carrier authenticated, never anything the sender wrote."""

    peer: str
    connection: bytes
    header: bytes
    body: Buffer


@dataclass(frozen=True, slots=True)
class Trouble:
    """A diagnosis for the operator: :class:`~splitfed.errors.PeerRefusedUs`,
    :class:`~splitfed.errors.PeerKeyMismatch`, :class:`~splitfed.errors.PeerUnreachable`.

    ``fatal``: trying again cannot help until somebody changes a file. A wire reports one
    trouble once, not at every attempt. ``connection``: the one by which the peer broke the
    rules, b"" for one that never carried a message; None where it is not about a connection.
    """

    peer: str
    error: SplitfedError
    fatal: bool
    connection: bytes | None = None


WireEvent = Up | Down | Message | Trouble


class Wire(Protocol):
    """Carries two-part messages between authenticated parties.

    Attributes:
        keys: public key bytes by roster name, the own name included. They go into the
            session name, so both ends must hold the same bytes for one party.
        bytes_sent: all bytes written so far, framing and encryption included.
        bytes_received: all bytes read so far, framing and encryption included.
    """

    @property
    def keys(self) -> Mapping[str, bytes]: ...
    @property
    def bytes_sent(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...

    def open(self) -> None:
        """Bind and dial. Called once, in the link's thread.

        Raises:
            UserError: the address cannot be bound (in use, not ours, not an address).
        """

    def send(self, peer: str, connection: bytes, header: bytes, body: Buffer) -> Sent:
        """Hand over one message for one connection, without blocking and without a copy
        of ``body`` where the carrier allows that."""

    def poll(self, wake_fd: int, timeout: float) -> list[WireEvent]:
        """Wait up to ``timeout`` seconds for events; 0 only looks.

        Returns at once with what is there (perhaps nothing) when ``wake_fd`` becomes
        readable; the link drains that. Events of one connection are in order. At most
        some dozens of messages a call, so that the link gets to answer in between.
        """

    def rebuild(self, peer: str) -> None:
        """Throw the connection away that we dialed to ``peer`` and dial anew, after a
        random moment. Does nothing where the peer dials us."""

    def drop(self, peer: str, connection: bytes) -> None:
        """End a connection that is of no use; one that we dialed is dialed anew. Does nothing
        if it is gone already."""

    def close(self) -> None:
        """Close everything. What was taken but not yet transmitted may be lost."""
