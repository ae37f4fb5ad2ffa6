"""Two ZeroMQ wires in one thread, and conditions instead of sleeping."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

from splitfed.transport.keys import Identity, PeerKeys, Secret, make_secret
from splitfed.transport.sockets import WireOptions
from splitfed.transport.wire import Down, Message, Sent, Trouble, Up, WireEvent
from splitfed.transport.zeromq import ZmqWire
from tests.support.proxy import Proxy

DEADLINE = 30.0
HEADER = bytes(range(64))

QUICK = WireOptions(
    connect_timeout=1.0,
    reconnect_interval=0.02,
    reconnect_max=0.1,
    handshake_interval=2.0,
    retry_grace=0.05,
    jitter=(0.0, 0.02),
    probe_timeout=1.0,
)
"""Short waits, so that tests do not wait; the limits are the real ones."""

NO_BEATS = replace(QUICK, heartbeat_interval=3600.0)
"""For tests that count every byte: those of heartbeats are not counted."""


@cache
def secret_of(name: str) -> Secret:
    """One secret a name for the whole test run."""
    return make_secret()


def keys_of(name: str, address: str | None = None, secret: Secret | None = None) -> PeerKeys:
    """What the agreement says of a party."""
    public = (secret or secret_of(name)).public
    return PeerKeys(public_key=public.public_key, signing_key=public.signing_key, address=address)


class Bench:
    """Opens wires and runs them all in turn until something holds.

    ``alice`` listens at a port of the system's choice; ``bob`` dials.
    """

    def __init__(self) -> None:
        self.events: dict[ZmqWire, list[WireEvent]] = {}
        self._wake, self._other = socket.socketpair()
        self._wake.setblocking(False)

    def wire(
        self,
        name: str,
        roster: dict[str, PeerKeys],
        bind: str | None = None,
        *,
        options: WireOptions = QUICK,
        dial: dict[str, str] | None = None,
    ) -> ZmqWire:
        wire = ZmqWire(
            Identity(name=name, secret=secret_of(name)), roster, bind, dial=dial, options=options
        )
        wire.open()
        self.events[wire] = []
        return wire

    def alice(
        self,
        *,
        bob: Secret | None = None,
        options: WireOptions = QUICK,
        bind: str = "tcp://127.0.0.1:0",
    ) -> ZmqWire:
        """A listener that expects ``bob``, by the key of ``bob`` if given."""
        roster = {"alice": keys_of("alice", "tcp://127.0.0.1:1"), "bob": keys_of("bob", secret=bob)}
        return self.wire("alice", roster, bind, options=options)

    def bob(
        self, address: str, *, alice: Secret | None = None, options: WireOptions = QUICK
    ) -> ZmqWire:
        """A dialler that pins alice's key, or that of ``alice`` if given."""
        roster = {"alice": keys_of("alice", address, secret=alice), "bob": keys_of("bob")}
        return self.wire("bob", roster, options=options)

    def close(self, wire: ZmqWire) -> None:
        wire.close()
        del self.events[wire]

    def close_all(self) -> None:
        for wire in list(self.events):
            self.close(wire)
        self._wake.close()
        self._other.close()

    def run(self, until: Callable[[], bool], deadline: float = DEADLINE) -> None:
        """Polls all wires in turn until ``until()`` holds."""
        end = time.monotonic() + deadline
        while not until():
            assert time.monotonic() < end, f"waited {deadline} s in vain; saw {self.seen()}"
            for wire, events in self.events.items():
                events += wire.poll(self._wake.fileno(), 0.002)

    def seen(self) -> list[list[str]]:
        return [[_short(event) for event in events] for events in self.events.values()]

    def of(self, wire: ZmqWire, kind: type[WireEvent]) -> list[WireEvent]:
        return [event for event in self.events[wire] if isinstance(event, kind)]

    def ups(self, wire: ZmqWire) -> list[Up]:
        return [event for event in self.events[wire] if isinstance(event, Up)]

    def downs(self, wire: ZmqWire) -> list[Down]:
        return [event for event in self.events[wire] if isinstance(event, Down)]

    def messages(self, wire: ZmqWire) -> list[Message]:
        return [event for event in self.events[wire] if isinstance(event, Message)]

    def troubles(self, wire: ZmqWire) -> list[Trouble]:
        return [event for event in self.events[wire] if isinstance(event, Trouble)]

    def connect(self, alice: ZmqWire, bob: ZmqWire) -> tuple[bytes, bytes]:
        """Waits for a new connection; returns its name on alice's and on bob's side."""
        before = len(self.ups(bob))
        self.run(lambda: len(self.ups(bob)) > before)
        return self.greet(alice, bob)

    def greet(self, alice: ZmqWire, bob: ZmqWire) -> tuple[bytes, bytes]:
        """Sends one message from bob to alice on bob's newest connection."""
        received = len(self.messages(alice))
        mine = self.ups(bob)[-1].connection
        assert bob.send("alice", mine, HEADER, b"hello") is Sent.SENT
        self.run(lambda: len(self.messages(alice)) > received)
        return self.messages(alice)[-1].connection, mine

    def send(self, wire: ZmqWire, peer: str, connection: bytes, body: bytes | memoryview) -> None:
        """Sends, polling while there is no room."""
        outcome = [wire.send(peer, connection, HEADER, body)]

        def sent() -> bool:
            if outcome[0] is Sent.BUSY:
                outcome[0] = wire.send(peer, connection, HEADER, body)
            return outcome[0] is not Sent.BUSY

        self.run(sent)
        assert outcome[0] is Sent.SENT


class Joined(NamedTuple):
    """Alice and Bob with one connection, and what each of them calls it."""

    bench: Bench
    alice: ZmqWire
    bob: ZmqWire
    at_alice: bytes
    at_bob: bytes
    proxy: Proxy


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    one = Bench()
    try:
        yield one
    finally:
        one.close_all()


def identity(name: str) -> Identity:
    """Who ``name`` is."""
    return Identity(name=name, secret=secret_of(name))


def descriptors() -> int:
    """Open descriptors of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def tasks() -> int:
    """Threads of this process, libzmq's own included."""
    return len(list(Path("/proc/self/task").iterdir()))


def port_of(wire: ZmqWire) -> int:
    assert wire.endpoint is not None
    return int(wire.endpoint.rsplit(":", 1)[1])


def _short(event: WireEvent) -> str:
    if isinstance(event, Message):
        return f"Message({len(event.body)})"
    if isinstance(event, Trouble):
        return f"Trouble({type(event.error).__name__}, {event.error.message}, {event.fatal})"
    return repr(event)
