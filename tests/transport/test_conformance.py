"""The laws of the link, on every kind of wire.

What a wire owes is in test_wires; here is what two links make of it.
"""

from __future__ import annotations

import socket
import time

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
from splitfed.transport.wire import Up, WireEvent
from tests.support.networks import CHUNK, DEADLINE, LinkParty
from tests.support.stage import Stage, payload, take

HEADER = bytes(range(64))


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
        moved = {peer: view.moved for peer, view in party.link.peers_status().items()}
        assert list(moved.values()) == [traffic.payload_sent + traffic.payload_received]


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
