"""A peer with a valid key that keeps to no rule ends itself, by name, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from splitfed.errors import ResourceLimit
from splitfed.transport.allowance import BURST
from splitfed.transport.events import Arrived, Delivered, Failed, Greeted, Status
from splitfed.transport.frames import StatusBody
from splitfed.transport.handshake import MAX_CHANNELS
from splitfed.transport.watching import came_over
from splitfed.transport.wire import Sent
from tests.support.hostile import MIB, until, victim
from tests.support.networks import LinkParty
from tests.support.proxy import Proxy
from tests.support.street import Street, greeting, raw, swap
from tests.support.wires import (
    HEADER,
    Bench,
    bench,
    descriptors,
    keys_of,
    port_of,
    secret_of,
    tasks,
)

LIMIT = 320 * MIB  # two looks' worth of a fast loopback, beyond what an honest peer may hold


@pytest.fixture
def b() -> Iterator[Bench]:
    with bench() as one:
        yield one


# --- memory: a message without an end -----------------------------------------------------


@pytest.mark.parametrize(
    ("part", "count", "first"),
    [(MIB, 3000, True), (MIB, 3000, False), (0, 400_000, True)],
    ids=["large parts", "large parts, and not a word before", "empty parts"],
)
def test_an_endless_message_is_cut_off_and_its_sender_named(
    part: int, count: int, first: bool
) -> None:
    roster = {"alice": keys_of("alice", "tcp://127.0.0.1:0"), "bob": keys_of("bob")}
    task = {
        "roster": {name: keys.__dict__ for name, keys in roster.items()},
        "secret": secret_of("alice").__dict__,
    }
    with victim("alice", **task) as alice:
        bob = raw(f"tcp://127.0.0.1:{alice.port}")
        try:
            if first:
                bob.raw(HEADER, b"hello")
            bob.endless(bytes(part), count)
            seen = alice.until(lambda seen: bool(seen["troubles"]))
        finally:
            bob.close()
    ((peer, kind, text),) = seen["troubles"]
    assert (peer, kind) == ("bob", "ResourceLimit")
    assert "did not end" in text
    assert seen["growth"] < LIMIT


def test_an_endless_message_of_the_listener_is_cut_off_by_the_dialler(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    at_alice, _ = b.connect(alice, bob)
    assert alice._listener is not None  # it sends what no wire of ours would
    socket = alice._listener._socket
    socket.sndhwm = 0
    block = bytes(MIB)
    socket.send(at_alice, flags=2)
    for _ in range(400):
        socket.send(block, flags=2, copy=False)
    socket.send(b"")
    b.run(lambda: bool(b.troubles(bob)))
    (trouble,) = b.troubles(bob)
    assert isinstance(trouble.error, ResourceLimit)
    assert (trouble.peer, trouble.fatal) == ("alice", True)


def test_an_honest_peer_may_fill_every_queue_while_nobody_reads(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    _, at_bob = b.connect(alice, bob)
    assert alice._listener is not None
    (known,) = alice._listener._connections.values()
    assert known.descriptor is not None
    block, sent = bytes(MIB), 0

    def filled() -> bool:
        nonlocal sent
        while sent < 100 and bob.send("alice", at_bob, HEADER, block) is Sent.SENT:
            sent += 1
        return (came_over(known.descriptor or 0) or 0) > 60 * MIB

    until(filled, "the queues to fill")
    b.run(lambda: len(b.messages(alice)) == 1 + sent)
    assert not b.troubles(alice)
    assert not b.downs(alice)


# --- the link: connections, floods, fairness ------------------------------------------------


@pytest.fixture
def street() -> Iterator[Street]:
    one = Street()
    try:
        yield one
    finally:
        one.close()


def test_many_connections_of_one_key_are_dropped_and_the_one_in_session_stays(
    street: Street,
) -> None:
    bob = street.honest("bob")
    swap(street.alice, bob, 1)
    with Proxy(("127.0.0.1", port_of(street.wire))) as proxy:
        crowd = [street.hostile(address=proxy.address) for _ in range(5 * MAX_CHANNELS)]
        for one in crowd:
            one.greet(greeting(folder=b"another folder.."), round_trip=False)
        proxy.wait(lambda p: p.accepted >= len(crowd) and p.connections <= MAX_CHANNELS)
        swap(street.alice, bob, 2)
        for one in crowd:
            one.close()
            street.raws.remove(one)
    assert len(bob.of(Greeted)) == 1
    assert not street.alice.of(Failed)


def test_a_flood_in_session_ends_that_peer_by_name_and_the_others_go_on() -> None:
    street = Street(("bob", "carol"))
    try:
        carol = street.honest("carol")
        bob = street.hostile()
        bob.greet(greeting())
        for step in range(2 * BURST):
            bob.say(StatusBody(Status("training", 1, step, 10_000)))
        failed = street.alice.wait(Failed)
        assert failed.peer == "bob"
        assert isinstance(failed.error, ResourceLimit)
        swap_with(street.alice, carol)
    finally:
        street.close()


def swap_with(alice: LinkParty, carol: LinkParty) -> None:
    """Carol's payload arrives at alice, who listens to two."""
    payload = random.Random("carol").randbytes(600_000)
    carol.offer(1, payload)
    arrived = alice.wait(Arrived)
    assert arrived.peer == "carol"
    assert bytes(arrived.payload) == payload
    alice.stored(arrived.offer)
    carol.wait(Delivered)


def test_beside_a_flood_another_peer_is_heard_in_its_turn(b: Bench) -> None:
    roster = {"alice": keys_of("alice", "tcp://127.0.0.1:1")}
    roster |= {"bob": keys_of("bob"), "carol": keys_of("carol")}
    alice = b.wire("alice", roster, "tcp://127.0.0.1:0")
    bob, carol = raw(alice), raw(alice, "carol")
    try:
        for one in (bob, carol):
            one.raw(HEADER, b"hello")
        b.run(lambda: len(b.messages(alice)) == 2)
        for _ in range(20_000):
            bob.raw(HEADER, b"noise")
        for _ in range(100):
            carol.raw(HEADER, b"word")
        b.run(lambda: sum(m.peer == "carol" for m in b.messages(alice)) == 101)
        order = [message.peer for message in b.messages(alice)]
        first = order.index("carol", 2)
        assert order[first:].count("bob") <= 10 * 100
    finally:
        bob.close()
        carol.close()


def test_sixty_connections_that_end_badly_leave_no_thread_and_no_descriptor(
    street: Street,
) -> None:
    bob = street.honest("bob")
    early: list[tuple[int, int]] = []
    for number in range(60):
        one = raw(street.wire)
        one.raw(b"nonsense" * (number % 3), b"more", *([b"parts"] * (number % 2)))
        one.close()
        if number < 5:
            early.append((descriptors(), tasks()))
    until(lambda: (descriptors(), tasks()) <= min(early), "what is open to be closed")
    assert bob.link.peers_status()["alice"].state == "connected"
