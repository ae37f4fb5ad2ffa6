"""The in-memory network: N parties, and faults on demand."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator

import pytest

from splitfed.transport.events import Arrived, Delivered, Greeted, LinkBroken, PeerView
from splitfed.transport.memory import MemoryHub, MemoryWire, Recorded
from splitfed.transport.wire import Down, Message, Up, WireEvent
from tests.support.networks import CHUNK, LinkParty

NAMES = ("alice", "bob", "carol", "dave")


class Desk:
    """Wires of a hub, read without waiting."""

    def __init__(self, *names: str) -> None:
        self.hub = MemoryHub(names)
        self.wires = {name: self.hub.wire(name) for name in names}
        self.wake, self.other = socket.socketpair()
        for wire in self.wires.values():
            wire.open()

    def poll(self, name: str) -> list[WireEvent]:
        events: list[WireEvent] = []
        while got := self.wires[name].poll(self.wake.fileno(), 0.0):
            events += got
        return events

    def close(self) -> None:
        for wire in self.wires.values():
            wire.close()
        self.wake.close()
        self.other.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    one = Desk("alice", "bob")
    yield one
    one.close()


def dialed(desk: Desk) -> tuple[MemoryWire, bytes]:
    (up,) = desk.poll("bob")
    assert isinstance(up, Up)
    return desk.wires["bob"], up.connection


def test_of_two_parties_the_name_that_sorts_first_listens() -> None:
    desk = Desk(*NAMES)
    ups = {name: [event.peer for event in desk.poll(name)] for name in NAMES}
    assert ups == {
        "alice": [],
        "bob": ["alice"],
        "carol": ["alice", "bob"],
        "dave": ["alice", "bob", "carol"],
    }
    desk.close()


def test_what_is_recorded_is_what_was_sent(desk: Desk) -> None:
    seen: list[Recorded] = []
    desk.hub.record = seen.append
    wire, connection = dialed(desk)
    wire.send("alice", connection, b"header", b"body")
    assert seen == [Recorded("bob", "alice", b"header", b"body")]
    assert wire.bytes_sent == 10
    desk.poll("alice")
    assert desk.wires["alice"].bytes_received == 10


def test_what_is_lost_was_sent_and_never_arrives(desk: Desk) -> None:
    desk.hub.lose = lambda message: message.body == b"lost"
    wire, connection = dialed(desk)
    for body in (b"lost", b"kept"):
        wire.send("alice", connection, b"", body)
    assert [event.body for event in desk.poll("alice") if isinstance(event, Message)] == [b"kept"]


@pytest.mark.parametrize("lose", [True, False])
def test_a_cut_tells_both_sides_and_connects_again(desk: Desk, lose: bool) -> None:
    wire, connection = dialed(desk)
    wire.send("alice", connection, b"", b"on its way")
    desk.hub.cut("alice", "bob", lose=lose)
    down, up = desk.poll("bob")
    assert down == Down("alice", connection, "cut")
    assert isinstance(up, Up)
    assert up.connection != connection
    arrived = [event for event in desk.poll("alice") if isinstance(event, Message)]
    assert len(arrived) == (not lose)


def test_parties_kept_apart_meet_again_only_when_joined(desk: Desk) -> None:
    desk.poll("bob")
    desk.hub.part("alice", "bob")
    assert [type(event) for event in desk.poll("bob")] == [Down]
    desk.hub.cut("alice", "bob")
    assert desk.poll("bob") == []
    desk.hub.join("alice", "bob")
    assert [type(event) for event in desk.poll("bob")] == [Up]


def test_what_a_black_hole_holds_back_comes_in_order_when_it_is_released(desk: Desk) -> None:
    wire, connection = dialed(desk)
    desk.hub.hold("alice", "bob")
    for body in (b"1", b"2"):
        wire.send("alice", connection, b"", body)
    assert desk.poll("alice") == []
    desk.hub.release("alice", "bob")
    wire.send("alice", connection, b"", b"3")
    assert [event.body for event in desk.poll("alice") if isinstance(event, Message)] == [
        b"1",
        b"2",
        b"3",
    ]


def test_what_a_black_hole_held_dies_with_its_connection(desk: Desk) -> None:
    wire, connection = dialed(desk)
    desk.hub.hold("alice", "bob")
    wire.send("alice", connection, b"", b"held")
    desk.hub.cut("alice", "bob")
    desk.hub.release("alice", "bob")
    assert [event for event in desk.poll("alice") if isinstance(event, Message)] == []


def test_every_pair_of_four_parties_exchanges_its_updates() -> None:
    hub = MemoryHub(NAMES)
    links = {}
    for me, peer in itertools.permutations(NAMES, 2):
        links.setdefault(me, []).append(peer)
    parties = {me: LinkParty(me, hub.wire(me), peers=peers) for me, peers in links.items()}
    for party in parties.values():
        party.link.start()
    payloads = {me: me.encode() * CHUNK for me in NAMES}
    for me, party in parties.items():
        party.offer(1, payloads[me])
    for me, party in parties.items():
        for count in range(1, 4):
            arrived = party.wait(Arrived, count)
            assert arrived.payload == payloads[arrived.peer]
            party.stored(arrived.offer)
        assert {event.peer for event in party.of(Arrived)} == set(NAMES) - {me}
    for party in parties.values():
        party.wait(Delivered, 3)
    hub.cut("alice", "bob")
    assert parties["alice"].wait(LinkBroken).peer == "bob"
    views = parties["carol"].link.peers_status()
    assert {peer: view.state for peer, view in views.items()} == dict.fromkeys(
        ("alice", "bob", "dave"), "connected"
    )
    assert all(isinstance(view, PeerView) for view in views.values())
    for me, party in parties.items():
        moved = {peer: view.moved for peer, view in party.link.peers_status().items()}
        assert moved == {p: len(payloads[me]) + len(payloads[p]) for p in NAMES if p != me}
    assert len(parties["dave"].of(Greeted)) == 3
    for party in parties.values():
        party.link.close(0.0)
