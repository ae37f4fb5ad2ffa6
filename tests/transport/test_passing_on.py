"""Offers of others that a peer passes on: what is wanted arrives, and nobody is blamed for it."""

from __future__ import annotations

import pytest

from splitfed.errors import ProtocolViolation
from splitfed.transport.events import Arrived, Delivered, Failed, Offer, OfferRefused
from splitfed.transport.frames import OfferBody, Type
from tests.support.talk import (
    CHUNK,
    Joined,
    Net,
    Party,
    arrived,
    joined,
    offer_of,
    outgoing,
    receipt,
    replace,
    signed,
    signed_vote,
    with_past,
)

BIG = 12 * CHUNK + 5
CAROLS = outgoing("carol")


def eager(**options: object) -> Joined:
    """Alice and Bob, who want all that others made."""
    return joined(wanted=lambda offer: True, **options)


def under_way() -> tuple[Net, Party, Party]:
    """Bob passes on what Carol made for round 1, and three chunks of it are sent."""
    net, alice, bob, line = eager()
    out = outgoing("carol", 1, size=BIG)
    bob.talk.pass_on(out.offer, out.payload)
    while len(net.of(Type.DATA)) < 3:
        net.take(bob)
        net.deliver(line, alice)
        net.take(alice)
        net.deliver(line, bob)
    return net, alice, bob


def test_what_is_wanted_is_pulled_and_told_with_both_names() -> None:
    net, alice, bob, _ = eager()
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    event = alice.only(Arrived)
    assert (event.peer, event.offer, bytes(event.payload)) == ("bob", CAROLS.offer, CAROLS.payload)


def test_what_was_passed_on_and_stored_is_told_to_who_passed_it_on() -> None:
    net, alice, bob, _ = eager()
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    alice.holds(CAROLS.offer)
    net.pump()
    delivered = bob.only(Delivered)
    assert (delivered.peer, delivered.offer) == ("alice", CAROLS.offer)
    assert delivered.counter_signature == receipt("alice", CAROLS.offer)


def test_nothing_happens_with_what_nobody_wants() -> None:
    asked: list[Offer] = []
    net, alice, bob, line = joined(accept=lambda offer: asked.append(offer))
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    assert not asked
    assert Type.PULL not in net.types()
    assert not alice.of(Failed)
    net.say_raw(line, bob, Type.DATA, CAROLS.payload[:CHUNK], transfer=1, round=1)
    assert isinstance(alice.only(Failed).error, ProtocolViolation)


def test_what_is_wanted_later_is_pulled_then_and_once() -> None:
    wanted: set[str] = set()
    net, alice, bob, _ = joined(wanted=lambda offer: offer.party in wanted)
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    alice.talk.look_again(net.now)
    assert not net.of(Type.PULL)
    wanted.add("carol")
    for _ in range(2):
        alice.talk.look_again(net.now)
        net.pump()
    assert arrived(alice) == [CAROLS.payload]


def test_a_look_after_the_session_ended_finds_nothing() -> None:
    wanted: set[str] = set()
    net, alice, bob, line = joined(wanted=lambda offer: offer.party in wanted)
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    net.cut(line)
    wanted.add("carol")
    alice.talk.look_again(net.now)
    net.pump()
    assert not alice.of(Arrived)
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [CAROLS.payload]


def test_what_must_be_refused_is_told_once_and_needs_no_payload() -> None:
    net, alice, bob, line = eager(accept=lambda offer: "too long")
    bob.talk.pass_on(CAROLS.offer, None)
    net.pump()
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    refused = alice.only(OfferRefused)
    assert (refused.peer, refused.offer, refused.reason) == ("bob", CAROLS.offer, "too long")
    assert Type.PULL not in net.types()


def test_a_pull_of_what_is_not_here_is_stale_until_it_is() -> None:
    net, alice, bob, line = eager()
    bob.talk.pass_on(CAROLS.offer, None)
    net.pump()
    assert (len(net.of(Type.PULL, "alice")), bob.talk.stale) == (1, 1)
    assert not bob.of(Failed)
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    bob.talk.pass_on(CAROLS.offer, None)
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [CAROLS.payload]


@pytest.mark.parametrize("after", range(1, 14))
def test_after_a_break_only_what_is_missing_of_it_is_pulled(after: int) -> None:
    net, alice, bob, line = eager()
    out = outgoing("carol", size=BIG)
    bob.talk.pass_on(out.offer, out.payload)
    while len(net.of(Type.DATA)) < after:
        net.take(bob)
        net.deliver(line, alice)
        net.take(alice)
        net.deliver(line, bob)
    held = 13 - alice.talk.receiving.incomplete[0].missing if not arrived(alice) else 13
    net.cut(line)
    before = len(net.of(Type.DATA))
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [out.payload]
    assert len(net.of(Type.DATA)) - before == 13 - held


def test_it_is_offered_again_after_every_break_until_its_round_is_discarded() -> None:
    net, alice, bob, line = joined()
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    # What Bob offers himself drops his own two rounds before, and nobody else's.
    bob.talk.offer(outgoing("bob", 9))
    bob.talk.vote(9, *signed_vote("bob", b"nine"))
    for offered in (2, 4):
        net.pump()
        assert len(net.of(Type.OFFER, "bob")) == offered
        net.cut(line)
        line = net.connect(bob, alice)
    net.pump()
    bob.talk.discard(1)
    net.cut(line)
    before = len(net.passed)
    net.connect(bob, alice)
    net.pump()
    assert [f.header.round for f in net.passed[before:] if f.type is Type.OFFER] == [9]


def test_what_both_sides_have_is_not_offered_again_in_the_same_session() -> None:
    net, _, bob, _ = joined()
    for _ in range(2):
        bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    assert len(net.of(Type.OFFER)) == 1


def test_what_came_from_elsewhere_meanwhile_is_answered_and_not_pulled() -> None:
    net, alice, bob, _ = joined()
    bob.talk.pass_on(CAROLS.offer, CAROLS.payload)
    net.pump()
    alice.holds(CAROLS.offer)
    net.pump()
    assert bob.only(Delivered).offer == CAROLS.offer
    assert Type.PULL not in net.types()


def test_what_was_refused_too_late_and_is_here_by_another_way_is_answered_at_once() -> None:
    net, alice, bob, _ = joined(accept=lambda offer: "round is closed")
    bob.talk.offer(outgoing("bob"))
    net.pump()
    refused = alice.only(OfferRefused)
    alice.holds(refused.offer)
    net.pump()
    assert bob.only(Delivered).offer == refused.offer
    assert Type.PULL not in net.types()


def test_what_was_refused_in_an_earlier_session_is_answered_only_when_it_is_offered_again() -> None:
    net, alice, bob, line = joined(accept=lambda offer: "round is closed")
    bob.talk.offer(outgoing("bob"))
    net.pump()
    refused = alice.only(OfferRefused)
    net.cut(line)
    bob.talk.discard(refused.offer.round)
    net.connect(bob, alice)
    net.pump()
    alice.holds(refused.offer)
    net.pump()
    assert Type.STORED not in net.types()


@pytest.mark.parametrize("rounds", [1, 2, 100])
def test_what_is_on_its_way_when_its_round_is_discarded_is_no_fault(rounds: int) -> None:
    """Whoever comes back may be many rounds further at once."""
    net, alice, _ = under_way()
    alice.talk.discard(rounds)
    net.pump()
    assert alice.talk.receiving.incomplete == ()
    assert alice.talk.receiving.duplicates > 0
    assert not (*alice.of(Failed), *alice.of(Arrived))


# --- whose fault it is -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offer", "told"),
    [
        (replace(CAROLS.offer, signature=bytes(64)), "with a bad signature"),
        (replace(CAROLS.offer, party="alice"), "in the name of 'alice' with a bad signature"),
        (replace(CAROLS.offer, party="mallory"), "in the name of 'mallory' with a bad signature"),
        (replace(CAROLS.offer, entry_signature=bytes(64)), "ledger entry has a bad signature"),
        (replace(CAROLS.offer, number=7), "ledger entry has a bad signature"),
    ],
)
def test_what_its_party_did_not_sign_is_a_violation_of_who_passes_it_on(
    offer: Offer, told: str
) -> None:
    net, alice, bob, line = eager()
    net.say(line, bob, OfferBody(offer), round=1, transfer=1)
    failed = alice.only(Failed)
    assert isinstance(failed.error, ProtocolViolation)
    assert told in failed.error.message
    assert alice.talk.receiving.incomplete == ()


def test_two_payloads_of_another_party_are_no_fault_of_who_passes_them_on() -> None:
    net, alice, bob, _ = eager()
    outs = [outgoing("carol", seed=seed) for seed in ("one", "two")]
    for out in outs:
        bob.talk.pass_on(out.offer, out.payload)
    net.pump()
    assert arrived(alice) == [out.payload for out in outs]
    assert not alice.of(Failed)


def test_an_offer_of_another_party_takes_nothing_from_the_peers_own() -> None:
    """Not its place of the round, not its place among those on their way, nor its number."""
    net, alice, bob, _ = eager()
    same = b"the same bytes of two parties"
    for round in (1, 2):
        out = signed("carol", round, same)
        bob.talk.pass_on(out.offer, out.payload)
    for round in (1, 2):
        bob.talk.offer(signed("bob", round, same))
    net.pump()
    assert [(e.offer.party, e.offer.round) for e in alice.of(Arrived)] == [
        ("carol", 1),
        ("carol", 2),
        ("bob", 1),
        ("bob", 2),
    ]


@pytest.mark.parametrize("part", ["signature", "entry_signature"])
@pytest.mark.parametrize("truth", [True, None, False])
def test_past_keys_count_for_what_is_passed_on_alone(part: str, truth: bool | None) -> None:
    """One that was handed over as the present one; what a revoked one signed is not taken."""

    old = {part: bytes(64)}
    net, alice, bob, line = eager(verify=with_past(truth))
    bob.talk.pass_on(replace(CAROLS.offer, **old), CAROLS.payload)
    net.pump()
    assert arrived(alice) == ([CAROLS.payload] if truth else [])
    assert bool(alice.of(Failed)) == (truth is False)
    if truth is not False:
        own = replace(outgoing("bob").offer, **old)
        net.say(line, bob, OfferBody(own), round=1, transfer=9)
        assert "bad signature" in alice.only(Failed).error.message


def test_two_offers_that_differ_in_their_party_alone_are_two() -> None:
    """Whoever copies another's ledger head and payload must not make the two look like one."""
    net, alice, bob, _ = eager()
    head = bob.talk.peer.encode().ljust(32, b"\0")
    copied = outgoing("carol")
    mine = offer_of("alice", 1, copied.offer.manifest)
    theirs = offer_of("carol", 1, copied.offer.manifest)
    keys = {replace(offer, head=head).key for offer in (mine, theirs)}
    assert len(keys) == 2
    for offer in (mine, theirs):
        bob.talk.pass_on(offer, copied.payload)
    net.pump()
    assert arrived(alice) == [copied.payload] * 2


def test_the_peers_own_second_payload_is_still_a_violation() -> None:
    net, alice, bob, line = eager()
    net.say(line, bob, OfferBody(CAROLS.offer), round=1, transfer=1)
    for transfer, seed in ((2, "one"), (3, "two")):
        body = OfferBody(outgoing("bob", seed=seed).offer)
        net.say(line, bob, body, round=1, transfer=transfer)
    assert "two different" in alice.only(Failed).error.message


def test_an_old_round_is_passed_on_beside_a_new_one_of_the_peer_and_goes_on() -> None:
    net, alice, bob = under_way()
    bob.talk.offer(outgoing("bob", 9))
    net.pump()
    assert {(e.offer.party, e.offer.round) for e in alice.of(Arrived)} == {("carol", 1), ("bob", 9)}
