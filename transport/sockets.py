"""ZeroMQ sockets as this link uses them: options, monitors, whole messages, counted bytes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from splitfed.transport import zmtp
from splitfed.transport.keys import Secret
from splitfed.transport.wire import Buffer, Sent

ZAP_DOMAIN = b"splitfed"
MAX_MESSAGE_BYTES = (1 << 20) + (64 << 10)
"""One chunk and 64 KiB: a longer part ends the connection before it is read."""

PARTS = 2
"""A message is a header and a body."""

FRAMES_A_CALL = 64
"""Parts of one endless message that are skipped before anything else gets its turn."""

Socket = zmq.Socket[bytes]
Ready = Container[object]
"""The sockets that have something to read."""

_NAMES = itertools.count()


@dataclass(frozen=True, kw_only=True)
class WireOptions:
    """Times and limits of the sockets, in seconds; the defaults are what the link uses.

    Attributes:
        high_water_mark: messages (not bytes) queued each way for one connection.
        heartbeat_interval: between two PINGs; without them a dead link goes unnoticed.
        heartbeat_timeout: silence after a PING that ends the connection. Also the time
            after which the peer is asked to end it (below 65.5 s, or libzmq overflows).
        connect_timeout: for the TCP connection alone.
        reconnect_interval: before the first new attempt; doubles up to ``reconnect_max``.
        handshake_interval: for the whole handshake.
        retry_grace: a connection that ended and that libzmq does not dial again within
            this time never will be: the socket is replaced.
        jitter: the least and the most random wait before a replaced socket dials, so that
            the parties of a broken network do not come back all at once.
        suspicion: handshakes in a row that the other end breaks off before we look who
            answers there.
        probe_timeout: for looking.
    """

    high_water_mark: int = 64
    heartbeat_interval: float = 10.0
    heartbeat_timeout: float = 60.0
    connect_timeout: float = 3.0
    reconnect_interval: float = 0.5
    reconnect_max: float = 3.0
    handshake_interval: float = 5.0
    retry_grace: float = 1.0
    jitter: tuple[float, float] = (0.05, 0.5)
    suspicion: int = 3
    probe_timeout: float = 2.0


class Meter:
    """Bytes on the wire, both ways, as :mod:`splitfed.transport.zmtp` computes them."""

    def __init__(self) -> None:
        self.sent = 0
        self.received = 0


def configure(socket: Socket, secret: Secret, options: WireOptions, server: str | None) -> None:
    """Sets every option the link depends on.

    Args:
        server: the CURVE key pinned for a socket that dials; None for one that listens.
    """
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret.curve_secret.encode("ascii"))
    socket.setsockopt(zmq.CURVE_PUBLICKEY, secret.curve_public.encode("ascii"))
    if server is None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    else:
        socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode("ascii"))
    # Both, or libzmq lets every key in when the handler is missing.
    socket.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
    for option, value in (
        (zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES),
        (zmq.SNDHWM, options.high_water_mark),
        (zmq.RCVHWM, options.high_water_mark),
        (zmq.HEARTBEAT_IVL, _ms(options.heartbeat_interval)),
        (zmq.HEARTBEAT_TIMEOUT, _ms(options.heartbeat_timeout)),
        (zmq.HEARTBEAT_TTL, _ms(options.heartbeat_timeout)),
        (zmq.CONNECT_TIMEOUT, _ms(options.connect_timeout)),
        (zmq.RECONNECT_IVL, _ms(options.reconnect_interval)),
        (zmq.RECONNECT_IVL_MAX, _ms(options.reconnect_max)),
        (zmq.HANDSHAKE_IVL, _ms(options.handshake_interval)),
        (zmq.LINGER, 0),
        (zmq.IPV6, 1),
    ):
        socket.setsockopt(option, value)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def endpoint_of(socket: Socket) -> str:
    """Where a bound socket really listens; IPv4 in its usual form."""
    return re.sub(r"\[::ffff:([0-9.]+)\]", r"\1", socket.get_string(zmq.LAST_ENDPOINT))


def transmit(socket: Socket, meter: Meter, route: Sequence[bytes], parts: Sequence[Buffer]) -> Sent:
    """Sends ``parts`` without blocking, and without a copy where that cannot leak.

    Args:
        route: the routing id in front, on a ROUTER; it does not travel.
    """
    # libzmq reads an uncopied part later, in its own thread. Were it changed by then, other
    # bytes than those that were released would leave this machine.
    fixed = all(_is_immutable(part) for part in parts)
    try:
        socket.send_multipart([*route, *parts], zmq.NOBLOCK, copy=not fixed)
    except zmq.Again:
        return Sent.BUSY
    except zmq.ZMQError as error:
        if error.errno == zmq.EHOSTUNREACH:
            return Sent.GONE
        raise
    meter.sent += sum(zmtp.part_bytes(memoryview(part).nbytes) for part in parts)
    return Sent.SENT


def _is_immutable(part: Buffer) -> bool:
    # A read-only view of a bytearray is read-only for us alone.
    return isinstance(part, bytes) or (isinstance(part, memoryview) and isinstance(part.obj, bytes))


@dataclass(frozen=True)
class Parcel:
    """One message: its first parts, how many there were in all, and their bytes on the wire.

    ``route`` is the routing id in front, on a ROUTER.
    """

    route: zmq.Frame | None
    parts: tuple[zmq.Frame, ...]
    count: int
    size: int


class Inbox:
    """Takes whole messages off a socket, keeping no more parts than a message of ours has.

    Attributes:
        empty: the last look found no whole message.
    """

    def __init__(self, socket: Socket, meter: Meter, *, routed: bool) -> None:
        self._socket = socket
        self._meter = meter
        self._routed = routed
        self._route: zmq.Frame | None = None
        self._parts: list[zmq.Frame] = []
        self._count = 0
        self._size = 0
        self.empty = False

    def next(self) -> Parcel | None:
        """The next message; None when none is complete now."""
        for _ in range(FRAMES_A_CALL):
            try:
                frame: Any = self._socket.recv(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                self.empty = True
                return None
            self.empty = False
            if self._routed and self._route is None:
                self._route = frame  # libzmq's own: it was not on the wire
            else:
                size = zmtp.part_bytes(len(frame))
                self._meter.received += size
                self._size += size
                self._count += 1
                if self._count <= PARTS:
                    self._parts.append(frame)
            if not frame.more:
                parcel = Parcel(self._route, tuple(self._parts), self._count, self._size)
                self._route, self._parts, self._count, self._size = None, [], 0, 0
                return parcel
        return None


class Monitor:
    """The events of one socket.

    ``zmq_socket_monitor`` writes them from libzmq's own thread, and blocks there when
    nobody reads: so our end is connected before the monitor starts, and never full.
    """

    def __init__(self, context: zmq.Context[Socket], socket: Socket, events: int) -> None:
        self._context = context
        self._watched = socket
        self.socket = self._start(events)

    def _start(self, events: int) -> Socket:
        address = f"inproc://splitfed.monitor.{next(_NAMES)}"
        pair = self._context.socket(zmq.PAIR)
        pair.setsockopt(zmq.RCVHWM, 0)
        pair.setsockopt(zmq.LINGER, 0)
        pair.connect(address)
        self._watched.monitor(address, events)
        return pair

    def change(self, events: int) -> list[tuple[int, int]]:
        """Watches ``events`` from now on; returns what was still unread."""
        old, self.socket = self.socket, self._start(events)
        unread = _drain(old)
        old.close(0)
        return unread

    def drain(self) -> list[tuple[int, int]]:
        """All (event, value) that happened so far, in order."""
        return _drain(self.socket)

    def close(self) -> None:
        """Stops the events; before the watched socket is closed, in the same thread."""
        self._watched.monitor(None, 0)
        self.socket.close(0)


def _drain(pair: Socket) -> list[tuple[int, int]]:
    events: list[tuple[int, int]] = []
    while True:
        try:
            message = parse_monitor_message(pair.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            return events
        events.append((int(message["event"]), int(message["value"])))
