"""What a wire owes, on every kind of wire."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from splitfed.transport.wire import Down, Message, Sent, Up, Wire, WireEvent
from tests.support.networks import DEADLINE, Network
from tests.support.stage import Stage

HEADER = bytes(range(64))


# --- what a wire owes ---------------------------------------------------------------------------


class Bare:
    """Two wires in this thread, polled in turn."""

    def __init__(self, network: Network) -> None:
        self.wake, self.waker = socket.socketpair()
        self.alice = network.wire("alice")
        self.alice.open()
        self.bob = network.wire("bob")
        self.bob.open()
        self.seen: dict[Wire, list[WireEvent]] = {self.alice: [], self.bob: []}

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, self.seen
            for wire, events in self.seen.items():
                events += wire.poll(self.wake.fileno(), 0.002)

    def of(self, wire: Wire, kind: type) -> list[Any]:
        return [event for event in self.seen[wire] if isinstance(event, kind)]

    def connected(self, number: int = 1) -> bytes:
        """Bob's name of his ``number``-th connection, once it stands."""
        self.until(lambda: len(self.of(self.bob, Up)) >= number)
        return self.of(self.bob, Up)[number - 1].connection

    def close(self) -> None:
        self.bob.close()
        self.alice.close()
        self.wake.close()
        self.waker.close()


@pytest.fixture
def bare(stage: Stage) -> Iterator[Bare]:
    one = Bare(stage.network)
    try:
        yield one
    finally:
        one.close()


def test_messages_of_a_connection_keep_their_order_and_every_byte(bare: Bare) -> None:
    name = bare.connected()
    bodies = [b"", b"x", bytes(range(256)) * 4096, *(bytes([n]) for n in range(40))]
    for body in bodies:
        assert bare.bob.send("alice", name, HEADER, memoryview(body)) is Sent.SENT
    bare.until(lambda: len(bare.of(bare.alice, Message)) == len(bodies))
    messages = bare.of(bare.alice, Message)
    assert [bytes(m.body) for m in messages] == bodies
    assert {(m.peer, bytes(m.header)) for m in messages} == {("bob", HEADER)}
    assert len({m.connection for m in messages}) == 1


def test_a_listener_answers_on_the_connection_a_message_came_on(bare: Bare) -> None:
    bare.bob.send("alice", bare.connected(), HEADER, b"question")
    bare.until(lambda: bool(bare.of(bare.alice, Message)))
    there = bare.of(bare.alice, Message)[0].connection
    assert bare.alice.send("bob", there, HEADER, b"answer") is Sent.SENT
    bare.until(lambda: bool(bare.of(bare.bob, Message)))
    answer = bare.of(bare.bob, Message)[0]
    assert (answer.peer, answer.connection, bytes(answer.body)) == (
        "alice",
        bare.connected(),
        b"answer",
    )


def test_a_connection_that_broke_is_gone_for_ever_and_the_next_has_another_name(
    bare: Bare, stage: Stage
) -> None:
    first = bare.connected()
    bare.bob.send("alice", first, HEADER, b"on the first")
    bare.until(lambda: bool(bare.of(bare.alice, Message)))
    there = bare.of(bare.alice, Message)[0].connection
    stage.network.cut()
    second = bare.connected(2)
    assert second != first
    assert Down("alice", first, bare.of(bare.bob, Down)[0].reason) in bare.seen[bare.bob]
    assert bare.bob.send("alice", first, HEADER, b"late") is Sent.GONE
    bare.until(lambda: bare.alice.send("bob", there, HEADER, b"late") is Sent.GONE)
    assert bare.bob.send("alice", second, HEADER, b"on the second") is Sent.SENT
    bare.until(lambda: len(bare.of(bare.alice, Message)) == 2)
    assert bare.of(bare.alice, Message)[1].connection != there


def test_an_unknown_connection_is_gone(bare: Bare) -> None:
    bare.connected()
    assert bare.bob.send("alice", b"never was", HEADER, b"") is Sent.GONE
    assert bare.alice.send("bob", b"never was", HEADER, b"") is Sent.GONE


def test_rebuilding_makes_another_connection(bare: Bare) -> None:
    first = bare.connected()
    bare.bob.rebuild("alice")
    assert bare.connected(2) != first
    assert bare.bob.send("alice", first, HEADER, b"") is Sent.GONE


def test_rebuilding_does_nothing_where_the_peer_dials(bare: Bare) -> None:
    name = bare.connected()
    bare.alice.rebuild("bob")
    assert bare.bob.send("alice", name, HEADER, b"still here") is Sent.SENT
    bare.until(lambda: bool(bare.of(bare.alice, Message)))


def test_polling_ends_when_the_link_is_woken(bare: Bare) -> None:
    bare.connected()
    bare.waker.send(b"\0")
    begun = time.monotonic()
    for _ in range(3):  # what is left of the handshake may come first
        bare.alice.poll(bare.wake.fileno(), 10 * DEADLINE)
    assert time.monotonic() - begun < DEADLINE


def test_a_full_connection_is_busy_and_has_room_again_once_it_is_read(bare: Bare) -> None:
    name, body = bare.connected(), bytes(1 << 20)
    outcomes = [Sent.SENT]
    while outcomes[-1] is Sent.SENT:
        outcomes.append(bare.bob.send("alice", name, HEADER, body))
        assert len(outcomes) < 1000
    assert outcomes[-1] is Sent.BUSY
    taken = outcomes.count(Sent.SENT) - 1
    bare.until(lambda: bare.bob.send("alice", name, HEADER, b"last") is Sent.SENT)
    bare.until(lambda: len(bare.of(bare.alice, Message)) >= taken + 1)
    assert bytes(bare.of(bare.alice, Message)[-1].body) == b"last"


def test_bytes_are_counted_on_both_sides(bare: Bare) -> None:
    name = bare.connected()
    before = bare.bob.bytes_sent, bare.alice.bytes_received
    bare.bob.send("alice", name, HEADER, bytes(100_000))
    bare.until(lambda: bool(bare.of(bare.alice, Message)))
    for counted, earlier in zip(
        (bare.bob.bytes_sent, bare.alice.bytes_received), before, strict=True
    ):
        assert 100_064 <= counted - earlier <= 100_064 + 1024


def test_both_ends_hold_the_same_keys(bare: Bare) -> None:
    assert dict(bare.alice.keys) == dict(bare.bob.keys)
    assert set(bare.alice.keys) == {"alice", "bob"}
