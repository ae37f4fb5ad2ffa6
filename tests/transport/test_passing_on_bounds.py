"""Offers that a peer passes on, or that come too early: so many, and one more is a flood."""

from __future__ import annotations

import dataclasses

import pytest

from splitfed.errors import Defect, ResourceLimit
from splitfed.transport.events import Arrived, Delivered, Failed, OfferRefused, Voted
from splitfed.transport.frames import OfferBody, Type
from splitfed.transport.offers import LATER
from splitfed.transport.receiving import (
    MAX_PASSED_ON,
    MAX_REFUSED,
    MAX_TRANSFERS,
    MAX_UNWANTED,
    REMEMBERED_ROUNDS,
)
from splitfed.transport.sending import MOST_PASSED_ON
from tests.support.talk import (
    CHUNK,
    SETTINGS,
    WINDOW,
    Net,
    Party,
    arrived,
    joined,
    offer_of,
    outgoing,
    signed_vote,
)

BIG = 12 * CHUNK + 5
CAROLS = outgoing("carol")


def flood(net: Net, bob: Party, line: object, count: int) -> None:
    """Bob passes on ``count`` different offers of Carol's, whatever he may keep."""
    for number in range(1, count + 1):
        body = OfferBody(outgoing("carol", number, CHUNK).offer)
        net.say(line, bob, body, round=number, transfer=number)


def test_so_many_that_nobody_wants_are_remembered_and_one_more_is_a_resource_limit() -> None:
    net, alice, bob, line = joined()
    flood(net, bob, line, MAX_UNWANTED)
    assert not alice.of(Failed)
    body = OfferBody(outgoing("carol", 99, CHUNK).offer)
    net.say(line, bob, body, round=99, transfer=99)
    assert isinstance(alice.only(Failed).error, ResourceLimit)
    assert not vars(alice.talk.receiving)["_unwanted"]


def test_what_is_discarded_or_of_an_ended_session_is_remembered_no_more() -> None:
    net, alice, bob, line = joined()
    flood(net, bob, line, MAX_UNWANTED)
    alice.talk.discard(MAX_UNWANTED - 1)
    body = OfferBody(outgoing("carol", 99, CHUNK).offer)
    net.say(line, bob, body, round=99, transfer=99)
    assert len(vars(alice.talk.receiving)["_unwanted"]) == 2
    net.cut(line)
    assert not vars(alice.talk.receiving)["_unwanted"]
    assert not alice.of(Failed)


def test_so_many_are_on_their_way_at_once_and_the_others_wait_for_room() -> None:
    net, alice, bob, _ = joined(wanted=lambda offer: True)
    outs = [outgoing("carol", number) for number in range(1, MAX_PASSED_ON + 9)]
    most: list[int] = []
    for out in outs:
        bob.talk.pass_on(out.offer, out.payload)
    for _ in range(2000):
        net.take(bob)
        net.take(alice)
        for line in net.lines.values():
            net.deliver(line, alice)
            net.deliver(line, bob)
        most.append(len(alice.talk.receiving.incomplete))
        assert alice.talk.receiving.in_flight <= WINDOW
    assert max(most) == MAX_PASSED_ON
    assert sorted(arrived(alice)) == sorted(out.payload for out in outs)
    assert not alice.of(Failed)


def test_what_is_not_offered_any_more_makes_room() -> None:
    net, alice, bob, line = joined(wanted=lambda offer: True)
    net.lose = lambda frame: frame.type is Type.DATA
    for number in range(1, MAX_PASSED_ON + 1):
        bob.talk.pass_on(outgoing("carol", number).offer, outgoing("carol", number).payload)
    net.pump()
    net.cut(line)
    bob.talk.discard(MAX_PASSED_ON)
    net.lose = lambda frame: False
    out = outgoing("carol", 40)
    bob.talk.pass_on(out.offer, out.payload)
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [out.payload]
    assert len(alice.talk.receiving.incomplete) == MAX_PASSED_ON - 1
    alice.talk.discard(40)
    assert alice.talk.receiving.incomplete == ()


def test_the_peers_own_are_still_two_at_once() -> None:
    net, alice, bob, line = joined(wanted=lambda offer: True)
    net.say(line, bob, OfferBody(CAROLS.offer), round=1, transfer=9)
    manifest = outgoing("bob").offer.manifest
    for transfer, kind in enumerate(("update", "outputs", "more"), 1):
        offer = offer_of("bob", 1, manifest, kind=kind)
        net.say(line, bob, OfferBody(offer), round=1, transfer=transfer)
        assert bool(alice.of(Failed)) is (transfer > MAX_TRANSFERS)
    assert isinstance(alice.only(Failed).error, ResourceLimit)


def test_a_flood_of_what_must_be_refused_ends_the_peer_also_after_another_look() -> None:
    wanted, loose = [False], dataclasses.replace(SETTINGS, passed_on=2 * MAX_REFUSED)
    net, alice, bob, line = joined(
        wanted=lambda offer: wanted[0], accept=lambda offer: "no", settings=loose
    )
    flood(net, bob, line, MAX_REFUSED + 1)
    wanted[0] = True
    alice.talk.look_again(net.now)
    net.collect(alice)
    assert isinstance(alice.only(Failed).error, ResourceLimit)
    assert len(alice.of(OfferRefused)) == MAX_REFUSED


def test_we_pass_on_no_more_than_a_peer_remembers() -> None:
    _, _, bob, _ = joined()
    for number in range(1, MOST_PASSED_ON + 1):
        bob.talk.pass_on(outgoing("carol", number, CHUNK).offer, None)
    bob.talk.pass_on(outgoing("carol", 1, CHUNK).offer, None)
    with pytest.raises(Defect, match="more than 64 offers"):
        bob.talk.pass_on(outgoing("carol", 99, CHUNK).offer, None)


def test_a_long_federation_passes_on_with_no_more_memory_than_a_short_one() -> None:
    net, alice, bob, _ = joined(wanted=lambda offer: offer.round % 2 == 0)
    for round in range(1, 101):
        out = outgoing("carol", round, 2 * CHUNK)
        bob.talk.pass_on(out.offer, out.payload)
        bob.talk.vote(round, *signed_vote("bob", b"%d" % round))
        net.pump()
        if round % 2 == 0:
            alice.holds(out.offer)
            net.pump()
        alice.talk.discard(round - 1)
        bob.talk.discard(round - 1)
    assert len(alice.of(Arrived)) == len(bob.of(Delivered)) == 50
    assert len(alice.of(Voted)) == 100
    # numbers of this session, a few bytes each
    del vars(bob.talk.sending)["_transfers"], vars(alice.talk.receiving)["_over"]
    receiving, sending = vars(alice.talk.receiving), vars(bob.talk.sending)
    sizes = {k: len(v) for k, v in receiving.items() if isinstance(v, set | dict)}
    assert max(sizes.values()) <= 6, sizes
    sizes = {k: len(v) for k, v in sending.items() if isinstance(v, set | dict)}
    assert max(sizes.values()) <= 6, sizes


# --- what cannot be judged yet -------------------------------------------------------------------


def test_an_offer_of_the_peers_own_that_cannot_be_judged_yet_is_taken_after_another_look() -> None:
    open_round = [1]
    net, alice, bob, _ = joined(
        accept=lambda offer: None if offer.round <= open_round[0] else LATER
    )
    outs = [outgoing("bob", round) for round in (3, 4)]
    for out in outs:
        bob.talk.offer(out)
    net.pump()
    alice.talk.look_again(net.now)
    net.pump()
    assert not (*alice.of(Arrived), *alice.of(OfferRefused), *alice.of(Failed))
    open_round[0] = 3
    alice.talk.look_again(net.now)
    net.pump()
    assert arrived(alice) == [outs[0].payload]
    open_round[0] = 4
    alice.talk.look_again(net.now)
    net.pump()
    assert arrived(alice) == [out.payload for out in outs]


def test_what_is_wanted_and_cannot_be_judged_yet_waits_too() -> None:
    answer: list[str | None] = [LATER]
    net, alice, bob, _ = joined(wanted=lambda offer: True, accept=lambda offer: answer[0])
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    assert not (*alice.of(Arrived), *alice.of(OfferRefused))
    answer[0] = None
    alice.talk.look_again(net.now)
    net.pump()
    assert arrived(alice) == [CAROLS.payload]


def test_of_a_peer_that_runs_ahead_the_last_rounds_are_remembered() -> None:
    net, alice, bob, _ = joined(accept=lambda offer: LATER)
    for round in range(1, 3 * MAX_UNWANTED):
        bob.talk.offer(outgoing("bob", round, CHUNK))
        net.pump()
    assert len(vars(alice.talk.receiving)["_unwanted"]) == REMEMBERED_ROUNDS
    assert not alice.of(Failed)


def test_two_payloads_for_one_round_are_a_violation_as_soon_as_they_are_judged() -> None:
    answer: list[str | None] = [LATER]
    net, alice, bob, line = joined(accept=lambda offer: answer[0])
    for transfer, seed in enumerate(("one", "two"), start=1):
        body = OfferBody(outgoing("bob", seed=seed).offer)
        net.say(line, bob, body, round=1, transfer=transfer)
    assert not alice.of(Failed)
    answer[0] = None
    alice.talk.look_again(net.now)
    net.collect(alice)
    assert "two different" in alice.only(Failed).error.message
