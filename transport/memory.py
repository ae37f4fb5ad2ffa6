"""Wires between parties of one process: for simulation, notebooks and tests.

They keep the promises of :class:`~splitfed.transport.wire.Wire` and no more. A hub can cut
connections, hold messages back and lose them, as networks do.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import blake3

from splitfed.errors import UserError
from splitfed.transport.wire import Buffer, Down, Message, Sent, Up, Wire, WireEvent

ROOM = 64
"""Messages of one direction of a connection that may wait to be read."""
MESSAGES_A_POLL = 48


@dataclass(frozen=True, slots=True)
class Recorded:
    """One message as it passed through the hub."""

    sender: str
    receiver: str
    header: bytes
    body: Buffer


@dataclass(slots=True, eq=False)
class _Pipe:
    """One connection; ``waiting``: unread messages by reader."""

    name: bytes
    dialer: MemoryWire
    listener: MemoryWire
    waiting: dict[int, int]

    def other(self, wire: MemoryWire) -> MemoryWire:
        return self.listener if wire is self.dialer else self.dialer


class MemoryHub:
    """The network: every wire of every party.

    Attributes:
        keys: public key bytes of each party.
        record: called with every message that a wire took, in order; None: nobody looks.
        lose: says which of them never arrive; None: all arrive.
    """

    def __init__(self, parties: Iterable[str]) -> None:
        self.keys: Mapping[str, bytes] = MappingProxyType(
            {name: blake3.blake3(b"memory wire " + name.encode()).digest() for name in parties}
        )
        self.record: Callable[[Recorded], None] | None = None
        self.lose: Callable[[Recorded], bool] | None = None
        self._lock = threading.RLock()
        self._names = itertools.count(1)
        self._pipes: dict[bytes, _Pipe] = {}
        self._dialing: list[MemoryWire] = []
        self._listening: dict[str, MemoryWire] = {}
        self._apart: set[frozenset[str]] = set()
        self._held: set[frozenset[str]] = set()
        self._kept: list[tuple[MemoryWire, Message]] = []

    def wire(self, name: str, *, dials: Iterable[str] | None = None) -> MemoryWire:
        """A wire for ``name``. Of two parties the one whose name sorts first listens;
        ``dials`` names exactly whom to dial instead, and then it does not listen at all."""
        targets = [p for p in self.keys if p < name] if dials is None else list(dials)
        return MemoryWire(self, name, targets, listens=dials is None)

    # --- what networks do ---

    def cut(self, one: str, other: str, *, lose: bool = False) -> None:
        """Break all connections between two parties; they come back by themselves.
        ``lose``: messages that nobody has read yet are gone."""
        with self._lock:
            for pipe in self._between(one, other):
                self._break(pipe, "cut", lose=lose)
            self._connect()

    def part(self, one: str, other: str) -> None:
        """Break the connections between two parties and let none come back."""
        with self._lock:
            self._apart.add(frozenset((one, other)))
            self.cut(one, other)

    def join(self, one: str, other: str) -> None:
        """Let two parties connect again."""
        with self._lock:
            self._apart.discard(frozenset((one, other)))
            self._connect()

    def hold(self, one: str, other: str) -> None:
        """A black hole: connections stay, and no message arrives any more."""
        with self._lock:
            self._held.add(frozenset((one, other)))

    def release(self, one: str, other: str) -> None:
        """Deliver what was held back on connections that still stand, and whatever follows."""
        with self._lock:
            self._held.discard(frozenset((one, other)))
            kept, self._kept = self._kept, []
            for wire, message in kept:
                if frozenset((wire.name, message.peer)) in self._held:
                    self._kept.append((wire, message))
                elif message.connection in self._pipes:
                    wire.deliver(message)

    # --- for the wires ---

    def opened(self, wire: MemoryWire) -> None:
        """``wire`` listens and dials from now on."""
        with self._lock:
            if wire.listens and wire.targeted:
                if wire.name in self._listening:
                    raise UserError(
                        f"the address of {wire.name} is in use",
                        "stop the other process, or give this one another address",
                    )
                self._listening[wire.name] = wire
            self._dialing.append(wire)
            self._connect()

    def closed(self, wire: MemoryWire) -> None:
        """``wire`` is gone with all its connections."""
        with self._lock:
            if wire in self._dialing:
                self._dialing.remove(wire)
            if self._listening.get(wire.name) is wire:
                del self._listening[wire.name]
            for pipe in list(self._pipes.values()):
                if wire in (pipe.dialer, pipe.listener):
                    self._break(pipe, "the peer closed", lose=False)

    def send(self, wire: MemoryWire, connection: bytes, header: bytes, body: Buffer) -> Sent:
        """Carry one message."""
        with self._lock:
            pipe = self._pipes.get(connection)
            if pipe is None or wire not in (pipe.dialer, pipe.listener):
                return Sent.GONE
            reader = pipe.other(wire)
            if pipe.waiting[id(reader)] >= ROOM:
                return Sent.BUSY
            wire.bytes_sent += len(header) + len(body)
            recorded = Recorded(wire.name, reader.name, header, body)
            if self.record is not None:
                self.record(recorded)
            if self.lose is not None and self.lose(recorded):
                return Sent.SENT
            pipe.waiting[id(reader)] += 1
            message = Message(wire.name, connection, header, body)
            if frozenset((wire.name, reader.name)) in self._held:
                self._kept.append((reader, message))
            else:
                reader.deliver(message)
            return Sent.SENT

    def read(self, wire: MemoryWire, connection: bytes) -> None:
        """``wire`` took a message off its queue."""
        with self._lock:
            pipe = self._pipes.get(connection)
            if pipe is not None:
                pipe.waiting[id(wire)] -= 1

    def dial_again(self, wire: MemoryWire, peer: str) -> None:
        """Replace the connection that ``wire`` dialed to ``peer``."""
        with self._lock:
            for pipe in list(self._pipes.values()):
                if pipe.dialer is wire and pipe.listener.name == peer:
                    self._break(pipe, "dialed anew", lose=True)
            self._connect()

    def drop(self, wire: MemoryWire, connection: bytes) -> None:
        """End a connection of ``wire``; it is dialed again."""
        with self._lock:
            pipe = self._pipes.get(connection)
            if pipe is not None and wire in (pipe.dialer, pipe.listener):
                self._break(pipe, "dropped", lose=True)
                self._connect()

    def _between(self, one: str, other: str) -> list[_Pipe]:
        pair = {one, other}
        return [p for p in self._pipes.values() if {p.dialer.name, p.listener.name} == pair]

    def _connect(self) -> None:
        """Make every connection that somebody dials and nothing forbids."""
        for dialer in self._dialing:
            for target in dialer.targets:
                listener = self._listening.get(target)
                apart = frozenset((dialer.name, target)) in self._apart
                made = any(
                    p.dialer is dialer and p.listener is listener for p in self._pipes.values()
                )
                if listener is None or apart or made:
                    continue
                name = next(self._names).to_bytes(8, "big")
                waiting = {id(dialer): 0, id(listener): 0}
                self._pipes[name] = _Pipe(name, dialer, listener, waiting)
                dialer.deliver(Up(target, name))

    def _made(self, dialer: MemoryWire, listener: MemoryWire) -> bool:
        return any(p.dialer is dialer and p.listener is listener for p in self._pipes.values())

    def _break(self, pipe: _Pipe, reason: str, *, lose: bool) -> None:
        del self._pipes[pipe.name]
        self._kept = [(w, m) for w, m in self._kept if m.connection != pipe.name]
        for wire in (pipe.dialer, pipe.listener):
            if lose:
                wire.lose(pipe.name)
            wire.deliver(Down(pipe.other(wire).name, pipe.name, reason))


class MemoryWire(Wire):
    """One party's end; made by :meth:`MemoryHub.wire`."""

    bytes_sent = 0
    bytes_received = 0

    def __init__(self, hub: MemoryHub, name: str, targets: list[str], *, listens: bool) -> None:
        self.name = name
        self.targets = targets
        self.listens = listens
        self.targeted = any(p > name for p in hub.keys)
        self._hub = hub
        self._events: deque[WireEvent] = deque()
        self._lock = threading.Lock()

    @property
    def keys(self) -> Mapping[str, bytes]:
        """Public keys by roster name."""
        return self._hub.keys

    def open(self) -> None:
        """See :meth:`splitfed.transport.wire.Wire.open`."""
        self._bell_in, self._bell_out = socket.socketpair()
        self._bell_in.setblocking(False)
        self._bell_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._bell_in, selectors.EVENT_READ)
        try:
            self._hub.opened(self)
        except UserError:
            self._close_bell()
            raise

    def send(self, peer: str, connection: bytes, header: bytes, body: Buffer) -> Sent:
        """See :meth:`splitfed.transport.wire.Wire.send`."""
        return self._hub.send(self, connection, header, body)

    def poll(self, wake_fd: int, timeout: float) -> list[WireEvent]:
        """See :meth:`splitfed.transport.wire.Wire.poll`."""
        events = self._take()
        if events:
            return events
        self._selector.register(wake_fd, selectors.EVENT_READ)
        try:
            self._selector.select(timeout)
        finally:
            self._selector.unregister(wake_fd)
        return self._take()

    def _take(self) -> list[WireEvent]:
        with self._lock:
            count = min(len(self._events), MESSAGES_A_POLL)
            events = [self._events.popleft() for _ in range(count)]
            if not self._events:
                with contextlib.suppress(BlockingIOError):
                    while self._bell_in.recv(4096):
                        pass
        for event in events:
            if isinstance(event, Message):
                self.bytes_received += len(event.header) + len(event.body)
                self._hub.read(self, event.connection)
        return events

    def rebuild(self, peer: str) -> None:
        """See :meth:`splitfed.transport.wire.Wire.rebuild`; nobody else dials here, so
        there is no random moment to wait."""
        self._hub.dial_again(self, peer)

    def drop(self, peer: str, connection: bytes) -> None:
        """See :meth:`splitfed.transport.wire.Wire.drop`."""
        self._hub.drop(self, connection)

    def close(self) -> None:
        """See :meth:`splitfed.transport.wire.Wire.close`."""
        self._hub.closed(self)
        self._close_bell()

    def _close_bell(self) -> None:
        self._selector.close()
        with self._lock:
            self._bell_in.close()
            self._bell_out.close()

    # --- for the hub ---

    def deliver(self, event: WireEvent) -> None:
        """Put an event where :meth:`poll` finds it."""
        with self._lock:
            self._events.append(event)
            # Either the bell is ringing already, or nobody is left to hear it.
            with contextlib.suppress(OSError):
                self._bell_out.send(b"\0")

    def lose(self, connection: bytes) -> None:
        """Drop what came on a connection and was not read."""
        with self._lock:
            self._events = deque(
                event
                for event in self._events
                if not (isinstance(event, Message) and event.connection == connection)
            )
