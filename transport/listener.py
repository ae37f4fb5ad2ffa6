"""The peers that dial us: one ROUTER, its door (ZAP) and what its monitor tells.

A ROUTER names connections by routing ids that libzmq draws, and its monitor by file
descriptors. Every message carries the descriptor it came by, which ties the two together,
so that the end of a connection is noticed without sending on it.
"""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import zmq

from splitfed.errors import Defect, PeerError, SplitfedError, UserError
from splitfed.transport import diagnosis, zmtp
from splitfed.transport.keys import Secret
from splitfed.transport.sockets import (
    Inbox,
    Meter,
    Monitor,
    Parcel,
    Ready,
    Socket,
    WireOptions,
    configure,
    endpoint_of,
    transmit,
)
from splitfed.transport.watching import UNFINISHED, Excess, Watch, plain
from splitfed.transport.wire import Buffer, Down, Message, Sent, Trouble, WireEvent
from splitfed.transport.zap import Authenticator, Verdict

ESTABLISHED_EVENTS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
AWAITING_EVENTS = ESTABLISHED_EVENTS | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
"""Failed handshakes explain why nobody comes. Once somebody came they are no longer watched:
while they are, libzmq 4.3.5 takes a corrupted byte on an established connection for "try
again later" and never reads from it again."""

REMEMBERED = 256
"""Ended connections whose late messages are still recognised."""

# libzmq's own ids: a zero byte and a number of 32 bits. A peer could choose another one.
_ROUTING_ID_BYTES = 5


@dataclass(eq=False)
class _Connection:
    peer: str
    descriptor: int | None
    ended: bool = False


class Listener:
    """Listens at ``address``.

    Args:
        expected: the peers that dial us.
        allowed: roster names by public key (32 bytes), our own included.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        address: str,
        *,
        expected: Collection[str],
        allowed: Mapping[bytes, str],
        secret: Secret,
        options: WireOptions,
        meter: Meter,
        clock: Callable[[], float],
    ) -> None:
        self.busy = False
        self.endpoint = address
        self._context, self._secret, self._options = context, secret, options
        self._address, self._expected, self._allowed = address, tuple(expected), allowed
        self._names = frozenset(allowed.values())
        self._meter = meter
        self._connections: dict[bytes, _Connection] = {}
        self._by_descriptor: dict[int, bytes] = {}
        self._watch = Watch(self._is_ours, options, clock)
        self._admitted: dict[str, set[str]] = {}
        self._ended: deque[bytes] = deque(maxlen=REMEMBERED)
        self._awaiting, self._met = True, False

    # --- what the wire asks -----------------------------------------------------------

    def open(self) -> None:
        """Binds; the door first, so that there is no moment without it."""
        self._door = Authenticator(self._context, self._allowed)
        self._socket: Socket = self._context.socket(zmq.ROUTER)
        configure(self._socket, self._secret, self._options, None)
        self._inbox = Inbox(self._socket, self._meter, routed=True)
        self._monitor = Monitor(self._context, self._socket, AWAITING_EVENTS)
        try:
            self._socket.bind(self._address)
        except zmq.ZMQError as error:
            self.close()
            raise _cannot_bind(self._address, error) from error
        self.endpoint = endpoint_of(self._socket)

    def owns(self, peer: str, connection: bytes) -> bool:
        """Whether ``connection`` is one of ``peer`` that still stands."""
        known = self._connections.get(connection)
        return known is not None and known.peer == peer and not known.ended

    def send(self, connection: bytes, header: bytes, body: Buffer) -> Sent:
        """Sends on a connection that :meth:`owns` confirmed."""
        outcome = transmit(self._socket, self._meter, (connection,), (header, body))
        self.busy = outcome is Sent.BUSY
        if outcome is Sent.GONE:
            self._forget(connection)
        return outcome

    def drop(self, connection: bytes) -> None:
        """Ends a connection that nobody has a use for."""
        if (known := self._connections.get(connection)) is not None:
            self._watch.cut(known.descriptor)

    @property
    def deadline(self) -> float:
        """When :meth:`pump` has something to do even if nothing happens."""
        return self._watch.deadline

    def pump(self, ready: Ready, limit: int) -> list[WireEvent]:
        """What happened on ``ready`` sockets, without waiting; about ``limit`` messages."""
        events: list[WireEvent] = []
        if self._door.socket in ready:
            for verdict in self._door.answer():
                events += self._judged(verdict)
        if self._monitor.socket in ready or (self._met and self._awaiting):
            events += self._observe()
        # What ended is buried after its last message, so those are read first.
        drained = self._socket not in ready and not self._some_ended()
        while not drained and len(events) < limit:
            parcel = self._inbox.next()
            if parcel is None:
                drained = True
            else:
                events += self._open_parcel(parcel)
        if self._socket not in ready or self._inbox.empty:
            self._watch.emptied()
        for excess in self._watch.look():
            events += self._exceeded(excess)
        return events + self._bury() if drained else events

    def register(self, poller: zmq.Poller) -> None:
        """Adds what :meth:`pump` wants to hear of."""
        poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if self.busy else 0))
        poller.register(self._monitor.socket, zmq.POLLIN)
        poller.register(self._door.socket, zmq.POLLIN)

    def close(self) -> None:
        """For good."""
        self._watch.clear()
        self._monitor.close()
        self._socket.close(0)
        self._door.close()

    # --- how --------------------------------------------------------------------------

    def _judged(self, verdict: Verdict) -> list[WireEvent]:
        if verdict.defect is not None:
            defect = Defect(
                f"checking a key from {plain(verdict.address)} failed, so it was refused: "
                f"{type(verdict.defect).__name__}: {verdict.defect}",
                "report this with the log",
            )
            return self._suspect(lambda _: defect)
        if verdict.key is not None:
            self._meter.received += zmtp.DIALER_HANDSHAKE_BYTES
            self._meter.sent += zmtp.LISTENER_REFUSAL_BYTES
            key, address = verdict.key, plain(verdict.address)
            return self._suspect(lambda peer: diagnosis.foreign_key(peer, key, address))
        if verdict.name is not None:
            self._admitted.setdefault(plain(verdict.address), set()).add(verdict.name)
        return []

    def _exceeded(self, excess: Excess) -> list[WireEvent]:
        """Whoever held too much by itself has proven a key: before that, a single frame is all
        that libzmq reads. Without a message of it, its address has to tell which key. Many
        together prove nothing: strangers may come from a peer's address."""
        if excess.peer is None and excess.held <= UNFINISHED:
            return self._suspect(diagnosis.burdened)
        if excess.peer is not None:
            error = diagnosis.withheld(excess.peer, excess.held)
            connection = self._by_descriptor.get(excess.descriptor, b"")
            return [Trouble(excess.peer, error, fatal=True, connection=connection)]
        names = self._admitted.get(excess.address, set())
        return [
            Trouble(name, diagnosis.withheld(name, excess.held), len(names) == 1, b"")
            for name in sorted(names)
        ]

    def _suspect(self, explain: Callable[[str], SplitfedError]) -> list[WireEvent]:
        """Nobody proved who it was: told for each peer that is still awaited, never fatal."""
        present = {known.peer for known in self._connections.values() if not known.ended}
        return [
            Trouble(peer, explain(peer), fatal=False)
            for peer in self._expected
            if peer not in present
        ]

    def _observe(self) -> list[WireEvent]:
        events: list[WireEvent] = []
        unread = self._monitor.drain()
        self._met |= any(event == zmq.EVENT_HANDSHAKE_SUCCEEDED for event, _ in unread)
        if self._awaiting and self._met:
            # Strangers may hold the last descriptors at this moment: then the next time.
            with contextlib.suppress(zmq.ZMQError):
                unread += self._monitor.change(ESTABLISHED_EVENTS)
                self._awaiting = False
        crowded = self._watch.crowded
        for event, value in unread:
            self._watch.observe(event, value)
            if event == zmq.EVENT_DISCONNECTED:
                self._end(self._by_descriptor.get(value))
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._meter.received += zmtp.DIALER_HANDSHAKE_BYTES
                self._meter.sent += zmtp.LISTENER_HANDSHAKE_BYTES
            elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                explain = (
                    diagnosis.pinned_another
                    if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
                    else diagnosis.not_encrypted
                )
                events += self._suspect(explain)
        if self._watch.crowded > crowded:
            most = self._watch.most_silent
            events += self._suspect(lambda peer: diagnosis.crowded(peer, most))
        return events

    def _open_parcel(self, parcel: Parcel) -> list[WireEvent]:
        assert parcel.route is not None
        connection = parcel.route.bytes
        known = self._connections.get(connection)
        if known is None and connection in self._ended:
            return []
        peer = _authenticated(parcel)
        if peer is None or peer not in self._names:
            return []  # libzmq lets nothing in without a name; should it ever, we do not
        events: list[WireEvent] = []
        if known is None:
            events = self._meet(connection, peer, parcel)
        elif known.peer != peer:
            self._end(connection)
            return self._bury()
        self._watch.took(self._connections[connection].descriptor, peer, parcel.size)
        if not _is_drawn(connection):
            error: PeerError = diagnosis.chosen_route(peer)
            return [*events, Trouble(peer, error, fatal=True, connection=connection)]
        if not diagnosis.is_whole(parcel):
            error = diagnosis.misshapen(peer, parcel)
            return [*events, Trouble(peer, error, fatal=True, connection=connection)]
        header, body = parcel.parts
        return [*events, Message(peer, connection, header.bytes, body.buffer)]

    def _meet(self, connection: bytes, peer: str, parcel: Parcel) -> list[WireEvent]:
        """Notes a new connection and the descriptor it came by."""
        # Whatever the monitor wrote before this message was sent is read now, so a
        # descriptor that is not open any more belonged to this very connection.
        events = self._observe()
        descriptor = _descriptor(parcel)
        self._connections[connection] = known = _Connection(peer, descriptor)
        if descriptor is not None:
            # A descriptor that comes again means that its earlier connection ended.
            self._end(self._by_descriptor.get(descriptor))
            self._by_descriptor[descriptor] = connection
            known.ended = descriptor not in self._watch
        return events

    def _is_ours(self, connection: socket.socket) -> bool:
        return str(connection.getsockname()[1]) == self.endpoint.rpartition(":")[2]

    def _end(self, connection: bytes | None) -> None:
        """Marks a connection; it is buried when its last messages were read."""
        if connection is not None and (known := self._connections.get(connection)) is not None:
            known.ended = True

    def _some_ended(self) -> bool:
        return any(known.ended for known in self._connections.values())

    def _bury(self) -> list[WireEvent]:
        ended = [(name, known.peer) for name, known in self._connections.items() if known.ended]
        for connection, _ in ended:
            self._forget(connection)
        return [Down(peer, connection, "the connection ended") for connection, peer in ended]

    def _forget(self, connection: bytes) -> None:
        known = self._connections.pop(connection)
        self._ended.append(connection)
        descriptor = known.descriptor
        if descriptor is not None and self._by_descriptor.get(descriptor) == connection:
            del self._by_descriptor[descriptor]


def _authenticated(parcel: Parcel) -> str | None:
    """The roster name that our ZAP handler answered with for this connection."""
    try:
        return str(parcel.parts[0].get("User-Id"))
    except (IndexError, zmq.ZMQError):
        return None


def _descriptor(parcel: Parcel) -> int | None:
    try:
        return int(parcel.parts[0].get(zmq.SRCFD))
    except (ValueError, zmq.ZMQError):
        return None  # then the end of the connection is noticed by sending


def _is_drawn(connection: bytes) -> bool:
    return len(connection) == _ROUTING_ID_BYTES and connection[0] == 0


def _cannot_bind(address: str, error: zmq.ZMQError) -> UserError:
    if error.errno == zmq.EADDRINUSE:
        return UserError(
            f"cannot listen at {address}: the port is in use",
            "another run of yours may hold it (`splitfed status`), or choose another port",
        )
    return UserError(
        f"cannot listen at {address}: {zmq.strerror(error.errno or 0)}",
        "set [link] bind in party.toml to an address of this machine, such as tcp://0.0.0.0:PORT, "
        "where the advertised address is that of a router or forwarder",
    )
