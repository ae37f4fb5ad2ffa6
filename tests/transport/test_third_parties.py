"""What other parties signed, passed on from link to link, on every kind of wire."""

from __future__ import annotations

import random

import msgspec

from splitfed.errors import ProtocolViolation, ResourceLimit
from splitfed.transport.events import (
    STATE,
    Arrived,
    Delivered,
    Failed,
    Greeted,
    LinkBroken,
    Noted,
    OfferRefused,
    StatusChanged,
    Voted,
)
from splitfed.transport.receiving import MAX_UNWANTED
from tests.support.networks import CHUNK, LinkParty, outgoing_of
from tests.support.stage import Stage, payload, take

PAYLOAD = random.Random("carol").randbytes(5 * CHUNK + 7)


def trio_of(trio: Stage) -> tuple[LinkParty, LinkParty, LinkParty]:
    """Alice, and Bob and Carol in session with her."""
    alice = trio.party("alice", peers=["bob", "carol"])
    bob, carol = trio.party("bob"), trio.party("carol")
    for party in (bob, carol):
        party.wait(Greeted)
    alice.wait(Greeted, 2)
    return alice, bob, carol


def test_a_note_arrives_with_the_signature_of_its_origin(stage: Stage) -> None:
    alice, bob = stage.pair()
    for kind in ("vote", "view", "evidence"):
        bob.note(3, "carol", kind, b"carol's word")
    noted = [alice.wait(Noted, count) for count in (1, 2, 3)]
    assert [event.kind for event in noted] == ["vote", "view", "evidence"]
    assert {(e.peer, e.origin, e.round, e.body) for e in noted} == {
        ("bob", "carol", 3, b"carol's word")
    }
    bob.note(4, "carol", "vote", b"carol's word")
    bob.vote(4, b"the end")
    alice.wait(Voted)
    assert len(alice.of(Noted)) == 3


def test_a_note_comes_again_to_a_new_process_but_not_twice_to_the_same(stage: Stage) -> None:
    alice, bob = stage.pair()
    bob.note(1, "carol", "view", b"carol's word")
    alice.wait(Noted)
    stage.network.cut()
    alice.wait(Greeted, 2)
    bob.wait(Greeted, 2)
    bob.note(1, "carol", "view", b"another word")
    assert alice.wait(Noted, 2).body == b"another word"
    alice.link.close(0.0)
    bob.wait(LinkBroken, 2)
    again = stage.party("alice", greeting={"boot": 2})
    assert {again.wait(Noted, count).body for count in (1, 2)} == {b"carol's word", b"another word"}


def test_a_note_stops_after_its_round_was_discarded(stage: Stage) -> None:
    alice, bob = stage.pair()
    for body in (b"of round one", b"raised"):
        bob.note(1, "carol", "view", body)
    bob.note(2, "carol", "view", b"raised")
    alice.wait(Noted, 2)
    bob.link.discard(1)
    alice.link.close(0.0)
    bob.wait(LinkBroken)
    again = stage.party("alice", greeting={"boot": 2})
    assert again.wait(Noted).body == b"raised"
    bob.note(2, "carol", "view", b"the end")
    assert again.wait(Noted, 2).body == b"the end"


def test_a_note_that_its_origin_did_not_sign_ends_its_sender_alone(trio: Stage) -> None:
    alice, bob, carol = trio_of(trio)
    bob.link.note(1, "carol", "view", b"carol never said so", bytes(64))
    failed = alice.wait(Failed)
    assert isinstance(failed.error, ProtocolViolation)
    assert failed.peer == "bob"
    carol.vote(1, b"undisturbed")
    assert alice.wait(Voted).peer == "carol"
    assert not alice.of(Noted)


def test_a_payload_of_another_party_arrives_if_it_is_wanted(stage: Stage) -> None:
    alice, bob = stage.pair(wanted=lambda offer: offer.party == "carol")
    out = outgoing_of("carol", 1, PAYLOAD)
    bob.link.pass_on(out.offer, out.payload, ["alice"])
    arrived = alice.wait(Arrived)
    assert (arrived.peer, arrived.offer, bytes(arrived.payload)) == ("bob", out.offer, PAYLOAD)
    alice.stored(out.offer, "bob")
    delivered = bob.wait(Delivered)
    assert (delivered.peer, delivered.offer) == ("alice", out.offer)


def test_what_is_not_wanted_yet_arrives_after_another_look(stage: Stage) -> None:
    wanted: list[str] = []
    alice, bob = stage.pair(wanted=lambda offer: offer.party in wanted)
    out = outgoing_of("carol", 1, PAYLOAD)
    bob.link.pass_on(out.offer, out.payload, ["alice"])
    bob.vote(1, b"after it")
    alice.wait(Voted)
    assert alice.link.traffic().payload_received == 0
    wanted.append("carol")
    alice.link.look_again()
    assert bytes(alice.wait(Arrived).payload) == PAYLOAD


def test_what_everybody_must_refuse_is_refused_without_its_payload(stage: Stage) -> None:
    alice, bob = stage.pair(wanted=lambda offer: True, accept=lambda offer: "too long")
    out = outgoing_of("carol", 1, PAYLOAD)
    bob.link.pass_on(out.offer, None, ["alice"])
    refused = alice.wait(OfferRefused)
    assert (refused.peer, refused.offer, refused.reason) == ("bob", out.offer, "too long")
    assert bob.link.traffic().payload_sent == 0


def test_an_offer_that_its_party_did_not_sign_ends_who_passes_it_on(trio: Stage) -> None:
    alice, bob, carol = trio_of(trio)
    forged = msgspec.structs.replace(outgoing_of("bob", 1, PAYLOAD).offer, party="carol")
    bob.link.pass_on(forged, None, ["alice"])
    failed = alice.wait(Failed)
    assert (failed.peer, type(failed.error)) == ("bob", ProtocolViolation)
    carol.vote(1, b"undisturbed")
    assert alice.wait(Voted).peer == "carol"


def test_what_breaks_on_the_way_goes_on_where_it_stopped(stage: Stage) -> None:
    alice, bob = stage.pair(window=2 * CHUNK, wanted=lambda offer: True)
    out = outgoing_of("carol", 1, random.Random("long").randbytes(60 * CHUNK))
    bob.link.pass_on(out.offer, out.payload, ["alice"])
    for number in range(1, 6):
        stage.network.cut()
        alice.wait(Greeted, number + 1)
        bob.wait(Greeted, number + 1)
    assert bytes(alice.wait(Arrived).payload) == out.payload
    assert len(alice.of(Arrived)) == 1
    spent = alice.link.traffic().payload_received
    assert spent <= len(out.payload) + 5 * 2 * 2 * CHUNK


def test_who_passes_on_what_nobody_wants_without_end_is_ended(stage: Stage) -> None:
    alice, bob = stage.pair()
    for round in range(1, MAX_UNWANTED + 2):
        bob.link.discard(round - 2)
        bob.link.pass_on(outgoing_of("carol", round, b"%d" % round).offer, None, ["alice"])
    assert isinstance(alice.wait(Failed).error, ResourceLimit)


def test_what_is_for_one_peer_reaches_nobody_else(trio: Stage) -> None:
    alice, bob, carol = trio_of(trio)
    first = alice.outgoing(1, payload(alice, 1))
    alice.link.offer(first, to=["bob"])
    alice.note(1, "alice", "view", b"for bob", to=["bob"])
    second = alice.offer(2, payload(alice, 2))
    alice.note(2, "alice", "view", b"for all")
    assert take(bob, 1) == first.payload
    assert take(bob, 2) == second.payload
    assert [bob.wait(Noted, count).body for count in (1, 2)] == [b"for bob", b"for all"]
    assert take(carol, 1) == second.payload
    assert carol.wait(Noted).body == b"for all"
    assert len(carol.of(Arrived)) == len(carol.of(Noted)) == 1


def test_an_agreed_state_arrives_and_nobody_is_told_that_it_is_stored(stage: Stage) -> None:
    alice, bob = stage.pair()
    out = outgoing_of("bob", 7, PAYLOAD, kind=STATE)
    bob.link.offer(out, to=["alice"])
    arrived = alice.wait(Arrived)
    assert (arrived.offer, bytes(arrived.payload)) == (out.offer, PAYLOAD)
    stage.network.cut()
    alice.wait(Greeted, 2)
    bob.vote(8, b"after it")
    alice.wait(Voted)
    assert len(alice.of(Arrived)) == 1
    assert not bob.of(Delivered)


def test_for_whose_word_a_party_waits_is_told_at_once(stage: Stage) -> None:
    alice, bob = stage.pair()
    bob.link.status("waiting", 3)
    bob.link.status("waiting", 3, awaits=["carol"])
    count = 1
    while (status := alice.wait(StatusChanged, count).status).awaits != ("carol",):
        count += 1
    assert (status.phase, status.round) == ("waiting", 3)
