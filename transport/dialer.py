"""One peer that we dial: a DEALER that is replaced whenever its connection ended.

libzmq's DEALER keeps its queues over a reconnection, and after some failures never dials
again. So one socket carries one connection at most: what was queued for a connection dies
with it, and no message of an earlier connection is taken for one of the present.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Callable

import zmq

from splitfed.transport import zmtp
from splitfed.transport.diagnosis import (
    DIAL_EVENTS,
    Act,
    Diagnosis,
    DialWatch,
    is_whole,
    misshapen,
    withheld,
)
from splitfed.transport.keys import PeerKeys, Secret
from splitfed.transport.probe import Probe
from splitfed.transport.sockets import (
    Inbox,
    Meter,
    Monitor,
    Parcel,
    Ready,
    Socket,
    WireOptions,
    configure,
    transmit,
)
from splitfed.transport.watching import NONE_LEFT, Watch
from splitfed.transport.wire import Buffer, Down, Message, Sent, Trouble, Up, WireEvent

DRAIN_LIMIT = 256
"""Messages that are still taken from a socket whose connection ended."""


class Dialer:
    """Dials ``peer`` at its address, for ever.

    Args:
        host, port: the same address, for looking who answers.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        peer: str,
        keys: PeerKeys,
        endpoint: tuple[str, str, int],
        *,
        name: str,
        secret: Secret,
        options: WireOptions,
        meter: Meter,
        clock: Callable[[], float],
    ) -> None:
        self.peer = peer
        self.busy = False
        self._context, self._keys, self._secret = context, keys, secret
        self._address, self._host, self._port = endpoint
        self._options, self._meter, self._clock = options, meter, clock
        self._watch = DialWatch(peer, self._address, name, options)
        self._held = Watch(self._is_ours, options, clock, peer)
        self._socket: Socket | None = None
        self._monitor: Monitor | None = None
        self._inbox: Inbox | None = None
        self._connection: bytes | None = None
        self._connections = 0
        self._redial_at: float | None = None
        self._probe: Probe | None = None
        self._descriptor: int | None = None
        self._chance = random.Random()

    # --- what the wire asks -----------------------------------------------------------

    def open(self) -> None:
        """Dials now."""
        self._dial()

    def owns(self, connection: bytes) -> bool:
        """Whether ``connection`` is the present one."""
        return connection == self._connection

    def send(self, header: bytes, body: Buffer) -> Sent:
        """Sends on the present connection."""
        if self._socket is None or self._connection is None:
            return Sent.GONE
        outcome = transmit(self._socket, self._meter, (), (header, body))
        self.busy = outcome is Sent.BUSY
        return outcome

    def rebuild(self, reason: str) -> list[WireEvent]:
        """Throws the socket away and dials after a random moment."""
        events = self._drop(reason)
        self._redial_at = self._clock() + self._chance.uniform(*self._options.jitter)
        return events

    def pump(self, ready: Ready, limit: int) -> list[WireEvent]:
        """What happened on ``ready`` sockets and what is due; about ``limit`` messages."""
        now = self._clock()
        if self._redial_at is not None and now >= self._redial_at:
            self._dial()
        events = self._answered(now)
        if self._monitor is not None and self._monitor.socket in ready:
            events += self._observe()
        if self._socket is not None and self._socket in ready:
            events += self._read(limit)
        if self._socket not in ready or (self._inbox is not None and self._inbox.empty):
            self._held.emptied()
        for excess in self._held.look():
            events.append(Trouble(self.peer, withheld(self.peer, excess.held), fatal=True))
        if self._socket is not None and self._watch.overdue(now):
            events += self.rebuild("libzmq gave the connection up")
        return events

    @property
    def deadline(self) -> float | None:
        """When :meth:`pump` has something to do even if nothing happens."""
        times = (
            self._redial_at,
            self._watch.deadline if self._socket is not None else None,
            self._probe.deadline if self._probe is not None else None,
            self._held.deadline,
        )
        return min((time for time in times if time is not None), default=None)

    def register(self, poller: zmq.Poller) -> None:
        """Adds what :meth:`pump` wants to hear of."""
        if self._socket is not None and self._monitor is not None:
            poller.register(self._socket, zmq.POLLIN | (zmq.POLLOUT if self.busy else 0))
            poller.register(self._monitor.socket, zmq.POLLIN)
        if self._probe is not None and (waits := self._probe.waits_for) is not None:
            descriptor, writing = waits
            poller.register(descriptor, zmq.POLLOUT if writing else zmq.POLLIN)

    def close(self) -> None:
        """For good."""
        self._drop("closed")
        self._redial_at = None
        if self._probe is not None:
            self._probe.close()
            self._probe = None

    # --- how --------------------------------------------------------------------------

    def _dial(self) -> None:
        self._redial_at = None
        try:
            self._dial_now()
        except zmq.ZMQError as error:
            if error.errno not in NONE_LEFT:
                raise
            self._drop("no descriptor is left")
            self._redial_at = self._clock() + self._options.reconnect_max

    def _dial_now(self) -> None:
        socket = self._context.socket(zmq.DEALER)
        configure(socket, self._secret, self._options, self._keys.public_key)
        self._socket, self._inbox = socket, Inbox(socket, self._meter, routed=False)
        self._monitor = Monitor(self._context, socket, DIAL_EVENTS)
        self._watch.dialed()
        socket.connect(self._address)

    def _drop(self, reason: str) -> list[WireEvent]:
        lost, self._connection, self.busy = self._connection, None, False
        self._held.clear()
        if self._monitor is not None:
            self._monitor.close()
        if self._socket is not None:
            self._socket.close(0)
        self._socket = self._monitor = self._inbox = None
        return [Down(self.peer, lost, reason)] if lost is not None else []

    def _observe(self) -> list[WireEvent]:
        events: list[WireEvent] = []
        if self._monitor is None:
            return events
        for event, value in self._monitor.drain():
            self._held.observe(event, value)
            if event == zmq.EVENT_CONNECTED:
                self._descriptor = value
            if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._meter.sent += zmtp.DIALER_HANDSHAKE_BYTES
                self._meter.received += zmtp.LISTENER_REFUSAL_BYTES
            for action in self._watch.observe(event, value, self._clock()):
                events += self._act(action)
            if self._socket is None:
                break  # the rest belongs to the socket that was thrown away
        return events

    def _act(self, action: Act | Diagnosis) -> list[WireEvent]:
        if isinstance(action, Diagnosis):
            return [Trouble(self.peer, action.error, action.fatal)]
        if action is Act.UP:
            self._connections += 1
            self._connection = b"dialed" + self._connections.to_bytes(8, "big")
            self._meter.sent += zmtp.DIALER_HANDSHAKE_BYTES
            self._meter.received += zmtp.LISTENER_HANDSHAKE_BYTES
            return [Up(self.peer, self._connection)]
        if action is Act.REDIAL:
            return self.rebuild("the connection broke")
        if action is Act.PROBE and self._probe is None:
            deadline = self._clock() + self._options.probe_timeout
            self._probe = Probe(self._host, self._port, deadline)
        if action is Act.DOWN:
            return self._read(DRAIN_LIMIT)  # what arrived whole before the connection ended
        return []

    def _read(self, limit: int) -> list[WireEvent]:
        events: list[WireEvent] = []
        while len(events) < limit and self._inbox is not None:
            parcel = self._inbox.next()
            if parcel is None:
                break
            if self._connection is None:
                # The handshake's event was written before this message was.
                events += self._observe()
            if (event := self._open_parcel(parcel)) is not None:
                events.append(event)
        return events

    def _answered(self, now: float) -> list[WireEvent]:
        if self._probe is None or (answer := self._probe.step(now)) is None:
            return []
        self._probe = None
        return self._act(self._watch.found(answer))

    def _is_ours(self, connection: socket.socket) -> bool:
        return int(connection.getpeername()[1]) == self._port

    def _open_parcel(self, parcel: Parcel) -> WireEvent | None:
        if self._descriptor is not None:
            self._held.took(self._descriptor, self.peer, parcel.size)
        if self._connection is None:
            return None
        if not is_whole(parcel):
            return Trouble(self.peer, misshapen(self.peer, parcel), fatal=True)
        header, body = parcel.parts
        return Message(self.peer, self._connection, header.bytes, body.buffer)
