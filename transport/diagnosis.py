"""What the events of a dialling socket mean: connected, lost, refused, wrong key, nobody there.

I/O-free: :class:`DialWatch` is told the monitor's events and the time, and says what to do.
The order of events in each case was observed with libzmq 4.3.5.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from splitfed.errors import (
    LinkDown,
    PeerError,
    PeerKeyMismatch,
    PeerRefusedUs,
    PeerUnreachable,
    ProtocolViolation,
    ResourceLimit,
)
from splitfed.transport.frames import HEADER
from splitfed.transport.probe import Answer
from splitfed.transport.sockets import PARTS, Parcel, WireOptions

REFUSED_STATUS = 400

CERTAIN = 2
"""Looks in a row at which splitfed answered, and broke our handshakes off nevertheless, until
that proves a wrong key: a bad line can break off a few in a row, too."""

DIAL_EVENTS = (
    zmq.EVENT_CONNECT_DELAYED
    | zmq.EVENT_CONNECTED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)
"""Without HANDSHAKE_FAILED_PROTOCOL: while that one is watched, libzmq 4.3.5 takes a corrupted
byte on an established connection for "try again later" and never reads from it again."""


class Act(enum.Enum):
    """What the owner of the socket has to do."""

    UP = "up"
    DOWN = "down"
    REDIAL = "redial"
    PROBE = "probe"


@dataclass(frozen=True)
class Diagnosis:
    """What the operator should know; ``fatal`` as in :class:`~splitfed.transport.wire.Trouble`."""

    error: PeerError
    fatal: bool


class DialWatch:
    """Follows the connections that one dialling socket after another makes to one peer.

    Args:
        peer, address: for the messages.
        name: our own name in the roster.
    """

    def __init__(self, peer: str, address: str, name: str, options: WireOptions) -> None:
        self.peer, self.address, self.name = peer, address, name
        self.proven = False
        """Whether a handshake ever succeeded: then the pinned key was right."""
        self._options = options
        self._established = False
        self._started: float | None = None  # of an attempt at TCP, since libzmq's last retry
        self._attempted = False  # TCP connected since then
        self._since: float | None = None  # of the TCP connection, until its handshake ends
        self._refused = False
        self._lost: float | None = None  # when a connection ended that libzmq gave no retry yet
        self._broken_off = 0
        self._answered = 0

    @property
    def deadline(self) -> float | None:
        """When :meth:`overdue` is to be asked."""
        limits = []
        if self._lost is not None:
            limits.append(self._lost + self._options.retry_grace)
        if self._since is not None:
            limits.append(self._since + self._patience)
        return min(limits, default=None)

    @property
    def _patience(self) -> float:
        # libzmq ends a handshake itself after handshake_interval; this is for when it does not.
        return self._options.handshake_interval + self._options.retry_grace

    def dialed(self) -> None:
        """A new socket dials."""
        self._established = self._attempted = self._refused = False
        self._started = self._since = self._lost = None

    def overdue(self, now: float) -> bool:
        """Whether the socket has to be replaced: libzmq will not dial again by itself."""
        return self.deadline is not None and now >= self.deadline

    def observe(self, event: int, value: int, now: float) -> Iterator[Act | Diagnosis]:
        """What one monitor event calls for."""
        if event == zmq.EVENT_CONNECT_DELAYED:
            self._started = now
        elif event == zmq.EVENT_CONNECTED:
            self._attempted, self._refused, self._since, self._lost = True, False, now, None
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._established, self.proven = True, True
            self._since, self._broken_off, self._answered = None, 0, 0
            yield Act.UP
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            self._refused, self._broken_off = True, 0
            yield self._refusal(value)
        elif event == zmq.EVENT_CONNECT_RETRIED:
            if not self._attempted:
                yield self._unreachable(self._why_unconnected(now))
            self._attempted, self._started, self._lost = False, None, None
        elif event == zmq.EVENT_DISCONNECTED:
            yield from self._disconnected(now)

    def found(self, answer: Answer) -> Diagnosis:
        """What a probe's answer means, after handshakes that the other end broke off."""
        self._answered = self._answered + 1 if answer is Answer.CURVE else 0
        if answer is Answer.CURVE and self._answered < CERTAIN:
            self._broken_off = self._options.suspicion - 1  # the next one makes us look again
            return Diagnosis(
                LinkDown(
                    f"{self.address} answers as splitfed does and breaks off our handshakes",
                    f"nothing yet: `splitfed run` keeps trying; either the line is bad, or our "
                    f"federation.toml has another public_key for {self.peer} than it uses",
                ),
                fatal=False,
            )
        if answer is Answer.CURVE:
            return Diagnosis(
                PeerKeyMismatch(
                    f"the process at {self.address} does not hold the key that the agreement "
                    f"pins for {self.peer}",
                    f"compare [parties.{self.peer}] public_key with what {self.peer} sees in "
                    "its own federation.toml; the address may also be that of someone else",
                ),
                fatal=not self.proven,
            )
        if answer is Answer.OTHER:
            return Diagnosis(
                PeerKeyMismatch(
                    f"what answers at {self.address} is not splitfed, so it cannot hold the "
                    f"key of {self.peer}",
                    f"correct [parties.{self.peer}] address: host and port of its `splitfed run`",
                ),
                fatal=not self.proven,
            )
        if answer is Answer.CLOSED:
            return self._unreachable(
                "connections are accepted and closed at once, as by a forwarder or tunnel "
                f"behind which {self.peer} is not running"
            )
        if answer is Answer.SILENT:
            return self._unreachable("connections are accepted, but nobody answers")
        return self._unreachable("nobody listens there")

    def _why_unconnected(self, now: float) -> str:
        if self._started is None:
            return "its name cannot be resolved, or no way leads there"
        if now - self._started >= 0.9 * self._options.connect_timeout:
            return "no answer, not even a refusal, as behind a firewall"
        return "nobody listens there"

    def _disconnected(self, now: float) -> Iterator[Act | Diagnosis]:
        if self._established:
            self._established = False
            yield Act.DOWN
            yield Act.REDIAL
            return
        started, self._since, self._lost = self._since, None, now
        if self._refused:
            return
        if started is not None and now - started >= 0.9 * self._options.handshake_interval:
            yield self._unreachable("connections are accepted, but nobody answers")
            return
        self._broken_off += 1
        if self._broken_off >= self._options.suspicion:
            self._broken_off = 0
            yield Act.PROBE

    def _refusal(self, status: int) -> Diagnosis:
        if status == REFUSED_STATUS:
            return Diagnosis(
                PeerRefusedUs(
                    f"{self.peer} at {self.address} refused our key: it is not on its list",
                    f"both sides need one federation.toml with the same [parties.{self.name}] "
                    f"public_key; send yours to {self.peer}",
                ),
                fatal=True,
            )
        return Diagnosis(
            LinkDown(
                f"{self.peer} at {self.address} could not check our key (status {status})",
                f"look at what splitfed of {self.peer} reports; `splitfed run` keeps trying",
            ),
            fatal=False,
        )

    def _unreachable(self, why: str) -> Diagnosis:
        return Diagnosis(
            PeerUnreachable(
                f"{self.peer} cannot be reached at {self.address}: {why}",
                f"is `splitfed run` of {self.peer} started, and do firewalls let us through? "
                "`splitfed run` keeps trying",
            ),
            fatal=False,
        )


def foreign_key(peer: str, key: str, address: str) -> PeerKeyMismatch:
    """For a listener: an unknown key came while ``peer`` is awaited."""
    return PeerKeyMismatch(
        f"a process at {address} dialled us with a key that is not in the agreement: {key}",
        f"if that is {peer}, its public_key in our federation.toml is another one: compare "
        "the files; if it is nobody you know, nothing is lost, it was refused",
    )


def pinned_another(peer: str) -> PeerKeyMismatch:
    """For a listener: a dialler expects another key than ours while ``peer`` is awaited."""
    return PeerKeyMismatch(
        "a process dialled us that pins another key than ours",
        f"if that is {peer}, its federation.toml holds another public_key for us: compare the "
        "files, or send ours again",
    )


def not_encrypted(peer: str) -> PeerKeyMismatch:
    """For a listener: something spoke ZeroMQ without CURVE while ``peer`` is awaited."""
    return PeerKeyMismatch(
        "a process dialled us that does not speak the encrypted protocol of splitfed",
        f"if that is {peer}, it runs something else than `splitfed run`; it was refused",
    )


def crowded(peer: str, most: int) -> LinkDown:
    """For a listener: more connections stand without a word than are let stand, while
    ``peer`` is awaited."""
    return LinkDown(
        f"more than {most} connections to our port said nothing; the oldest are cut off",
        f"let the firewall admit {peer} alone to our port; until then {peer} gets in all the "
        "same, unless strangers come faster than its greeting",
    )


def burdened(peer: str) -> LinkDown:
    """For a listener: connections made us hold too much together before their handshake."""
    return LinkDown(
        "connections to our port sent too much before they said who they are; the largest are "
        "cut off",
        f"let the firewall admit {peer} alone to our port",
    )


def withheld(peer: str, held: int) -> ResourceLimit:
    """A peer made us hold more than any honest one can: a message that never ends."""
    return ResourceLimit(
        f"{peer} made us hold {held >> 20} MiB of messages that it did not end; the connection "
        "was cut off",
        f"{peer} must run a splitfed of the same version",
    )


def is_whole(parcel: Parcel) -> bool:
    """Whether a message is a header of the right size and a body."""
    return parcel.count == PARTS and len(parcel.parts[0]) == HEADER.size


def misshapen(peer: str, parcel: Parcel) -> ProtocolViolation:
    """What to say of a message that is not whole."""
    sizes = ", ".join(str(len(part)) for part in parcel.parts)
    more = ", …" if parcel.count > PARTS else ""
    return ProtocolViolation(
        f"{peer} sent a message of {parcel.count} parts of {sizes}{more} bytes; "
        f"ours are a header of {HEADER.size} bytes and a body",
        f"{peer} must run a splitfed of the same version",
    )


def chosen_route(peer: str) -> ProtocolViolation:
    """A peer gave its connection a routing id of its own, as only an attempt to be taken
    for another connection would."""
    return ProtocolViolation(
        f"{peer} chose the routing id of its connection",
        f"{peer} must run a splitfed of the same version",
    )
