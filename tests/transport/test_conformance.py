"""The laws of the link, on every kind of wire.

What a wire owes is tested on bare wires first, then what two links make of it.
"""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from splitfed.errors import ContractMismatch, KeyInUse, ProtocolViolation, UserError
from splitfed.transport.events import (
    Arrived,
    Delivered,
    Failed,
    Greeted,
    Left,
    LinkBroken,
    OfferRefused,
    StatusChanged,
    Voted,
)
from splitfed.transport.wire import Down, Message, Sent, Up, Wire, WireEvent
from tests.support.networks import CHUNK, DEADLINE, NETWORKS, LinkParty, Network

HEADER = bytes(range(64))


class Stage:
    """A network and the links on it, taken down at the end."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.parties: list[LinkParty] = []

    def party(self, name: str, wire: Wire | None = None, **options: Any) -> LinkParty:
        """A running link."""
        party = LinkParty(name, wire or self.network.wire(name), **options)
        self.parties.append(party)
        party.link.start()
        return party

    def pair(self, **options: Any) -> tuple[LinkParty, LinkParty]:
        alice, bob = self.party("alice", **options), self.party("bob", **options)
        alice.wait(Greeted)
        bob.wait(Greeted)
        return alice, bob

    def close(self) -> None:
        for party in self.parties:
            party.link.close(0.0)
        self.network.close()


@pytest.fixture(params=sorted(NETWORKS))
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    one = Stage(NETWORKS[request.param]())
    try:
        yield one
    finally:
        one.close()


def payload(party: LinkParty, round: int = 1, size: int = 5 * CHUNK + 7) -> bytes:
    return random.Random(f"{party.name} {round}").randbytes(size)


def take(party: LinkParty, count: int = 1) -> bytes:
    """Wait for a payload and store it."""
    arrived = party.wait(Arrived, count)
    party.link.stored(party.peer, arrived.offer.manifest.root)
    return bytes(arrived.payload)


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


# --- what two links make of it ------------------------------------------------------------------


def test_updates_votes_and_goodbyes_cross_and_the_links_close(stage: Stage) -> None:
    alice, bob = stage.pair()
    sent = {party.name: party.offer(1, payload(party)).payload for party in (alice, bob)}
    assert take(alice) == sent["bob"]
    assert take(bob) == sent["alice"]
    for party in (alice, bob):
        assert party.wait(Delivered).round == 1
        party.vote(1, party.name.encode())
        party.link.status("voting", 1)
    assert alice.wait(Voted).body == b"bob"
    assert bob.wait(Voted).body == b"alice"
    for party in (alice, bob):
        party.link.goodbye("finished", 1)
    for party in (alice, bob):
        assert party.wait(Left).closed == 1
    for party in (alice, bob):
        party.link.close()
        assert not party.of(Failed)
        traffic = party.link.traffic()
        assert traffic.payload_sent == traffic.payload_received == len(sent["alice"])
        assert traffic.wire_sent > traffic.payload_sent


@pytest.mark.parametrize("size", [0, 1, CHUNK, 40 * CHUNK + 1])
def test_a_payload_of_any_size_arrives(stage: Stage, size: int) -> None:
    alice, bob = stage.pair(window=4 * CHUNK)
    out = bob.offer(1, payload(bob, size=size))
    assert take(alice) == out.payload
    bob.wait(Delivered)


def test_many_rounds_follow_each_other(stage: Stage) -> None:
    alice, bob = stage.pair()
    for round in range(1, 21):
        for party in (alice, bob):
            party.offer(round, payload(party, round, 100))
        assert take(alice, round) == payload(bob, round, 100)
        assert take(bob, round) == payload(alice, round, 100)
        for party in (alice, bob):
            party.vote(round, b"%d" % round)
        for party in (alice, bob):
            assert party.wait(Voted, round).round == round
            party.link.discard(round - 1)


def test_what_breaks_on_the_way_arrives_all_the_same_and_once(stage: Stage) -> None:
    alice, bob = stage.pair(window=2 * CHUNK)
    out = bob.offer(1, payload(bob, size=60 * CHUNK))
    for number in range(1, 6):
        stage.network.cut()
        alice.wait(Greeted, number + 1)
        bob.wait(Greeted, number + 1)
    assert take(alice) == out.payload
    bob.wait(Delivered)
    assert len(alice.of(Arrived)) == 1
    assert bob.link.traffic().reconnects >= 5


def test_what_is_said_while_nobody_listens_is_said_later(stage: Stage) -> None:
    alice = stage.party("alice")
    out = alice.offer(1, payload(alice))
    alice.vote(1, b"early")
    bob = stage.party("bob")
    assert take(bob) == out.payload
    assert bob.wait(Voted).body == b"early"


def test_a_listener_that_is_gone_and_back_gets_what_it_missed(stage: Stage) -> None:
    alice, bob = stage.pair()
    out = bob.offer(1, payload(bob))
    assert take(alice) == out.payload
    alice.link.close(0.0)
    bob.wait(LinkBroken)
    again = stage.party("alice", greeting={"boot": 2})
    assert take(again) == out.payload
    bob.wait(Greeted, 2)


def test_a_dialer_that_is_gone_and_back_takes_its_place_again(stage: Stage) -> None:
    alice, bob = stage.pair()
    bob.link.close(0.0)
    again = stage.party("bob", greeting={"boot": 2})
    again.wait(Greeted)
    assert alice.wait(Greeted, 2).greeting.boot == 2
    out = again.offer(1, payload(again))
    assert take(alice) == out.payload


def test_a_later_boot_fences_a_living_process(stage: Stage) -> None:
    alice, bob = stage.pair()
    later = stage.party("bob", greeting={"boot": 2})
    later.wait(Greeted)
    assert isinstance(bob.wait(Failed).error, KeyInUse)
    assert alice.wait(Greeted, 2).greeting.boot == 2


def test_a_second_process_with_the_same_key_is_refused(stage: Stage) -> None:
    alice, bob = stage.pair()
    second = stage.party("bob", greeting={"folder": b"f" * 16})
    assert isinstance(second.wait(Failed).error, KeyInUse)
    bob.vote(1, b"undisturbed")
    assert alice.wait(Voted).body == b"undisturbed"
    assert not alice.of(LinkBroken)


def test_a_second_listener_is_the_users_mistake_and_told_at_the_start(stage: Stage) -> None:
    stage.pair()
    second = LinkParty("alice", stage.network.wire("alice"))
    with pytest.raises(UserError, match="in use"):
        second.link.start()
    second.link.close()
    assert second.link.next(0.0) is None


def test_a_check_learns_and_disturbs_nothing(stage: Stage) -> None:
    alice, bob = stage.pair()
    checker = stage.party("bob", greeting={"purpose": "check", "folder": b"f" * 16})
    assert checker.wait(Greeted).greeting.purpose == "run"
    bob.vote(1, b"undisturbed")
    assert alice.wait(Voted).body == b"undisturbed"
    assert not alice.of(LinkBroken)
    assert not bob.of(LinkBroken)


def test_a_check_under_the_own_key_asks_the_own_run(stage: Stage) -> None:
    alice, bob = stage.pair()
    alice.link.status("training", 3, 1, 2)
    checker = stage.party(
        "alice", stage.network.own(), peers=["alice"], greeting={"purpose": "check"}
    )
    assert checker.wait(Greeted).greeting.name == "alice"
    status = checker.wait(StatusChanged).status
    assert (status.phase, status.round, status.links) == ("training", 3, {"bob": "connected"})
    checker.link.close()
    bob.vote(1, b"undisturbed")
    assert alice.wait(Voted).body == b"undisturbed"
    assert not alice.of(LinkBroken)


def test_differing_agreements_are_shown_on_both_sides(stage: Stage) -> None:
    alice = stage.party("alice", greeting={"contract_document": '{"rounds": 10}'})
    bob = stage.party(
        "bob", greeting={"contract": b"x" * 32, "contract_document": '{"rounds": 12}'}
    )
    for party, mine, theirs in ((alice, "10", "12"), (bob, "12", "10")):
        error = party.wait(Failed).error
        assert isinstance(error, ContractMismatch)
        (row,) = error.differences
        assert (row.key, row.mine, row.theirs) == ("rounds", mine, theirs)
        assert not party.of(Greeted)


def test_differing_agreements_are_shown_even_if_one_side_stops_at_once(stage: Stage) -> None:
    alice = stage.party("alice", greeting={"contract_document": '{"rounds": 10}'})
    bob = stage.party(
        "bob", greeting={"contract": b"x" * 32, "contract_document": '{"rounds": 12}'}
    )
    bob.wait(Failed)
    bob.link.close()
    error = alice.wait(Failed).error
    assert isinstance(error, ContractMismatch)
    assert error.differences[0].theirs == "12"


def test_a_refused_offer_is_told_to_the_app_and_never_pulled(stage: Stage) -> None:
    alice, bob = stage.pair(accept=lambda offer: "no" if offer.party == "bob" else None)
    bob.offer(1, payload(bob))
    assert alice.wait(OfferRefused).reason == "no"
    assert alice.link.traffic().payload_received == 0


def test_a_violation_ends_the_peer_and_not_the_process(stage: Stage) -> None:
    alice = stage.party("alice")
    wire = stage.network.wire("bob")
    wake, waker = socket.socketpair()
    wire.open()
    try:
        events: list[WireEvent] = []
        end = time.monotonic() + DEADLINE
        while not any(isinstance(event, Up) for event in events):
            assert time.monotonic() < end
            events += wire.poll(wake.fileno(), 0.01)
        (up,) = (event for event in events if isinstance(event, Up))
        wire.send("alice", up.connection, b"SFED" + bytes(60), b"garbage")
        while not alice.of(Failed):
            assert time.monotonic() < end
            wire.poll(wake.fileno(), 0.01)
            event = alice.link.next(0.01)
            alice.events += [event] if event is not None else []
    finally:
        wire.close()
        wake.close()
        waker.close()
    assert isinstance(alice.wait(Failed).error, ProtocolViolation)
    assert alice.link.peers_status()["bob"].state == "failed"
    alice.link.status("training", 1)  # the link lives on
    assert alice.link.next(0.0) is None
