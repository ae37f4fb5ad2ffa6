"""The agreed shared tensors, offered to a party that comes back: no ledger knows of them."""

from __future__ import annotations

import pytest

from splitfed.errors import ProtocolViolation, ResourceLimit
from splitfed.transport.events import (
    STATE_ROUNDS,
    Arrived,
    Delivered,
    Failed,
    Offer,
    OfferRefused,
)
from splitfed.transport.frames import OfferBody, StoredBody, Type
from splitfed.transport.offers import LATER
from splitfed.transport.receiving import MAX_TRANSFERS
from tests.support.talk import (
    arrived,
    joined,
    outgoing,
    receipt,
    replace,
    signed,
    state_of,
)

STATE_7 = state_of("bob", 7, bytes(range(256)) * 2)


def test_a_state_arrives_once_although_nobody_says_that_it_is_stored() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(STATE_7)
    net.pump()
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert len(net.of(Type.OFFER)) == 2
    assert arrived(alice) == [STATE_7.payload]
    assert alice.only(Arrived).offer == STATE_7.offer
    assert Type.STORED not in net.types()
    assert not alice.of(Failed)


def test_a_state_that_accept_refuses_is_not_pulled() -> None:
    net, alice, bob, _ = joined(accept=lambda offer: "no such state")
    bob.talk.offer(STATE_7)
    net.pump()
    assert alice.only(OfferRefused).reason == "no such state"
    assert Type.PULL not in net.types()


FORGED: dict[str, tuple[Offer, str]] = {
    "not signed": (replace(STATE_7.offer, signature=bytes(64)), "bad signature"),
    "another number": (replace(STATE_7.offer, number=2), "with a ledger entry"),
    "another head": (replace(STATE_7.offer, head=b"h" * 32), "with a ledger entry"),
    "another entry signature": (
        replace(STATE_7.offer, entry_signature=bytes(64)),
        "with a ledger entry",
    ),
    "an update as a state": (replace(outgoing("bob").offer, kind="state"), "bad signature"),
    "a state as an update": (replace(STATE_7.offer, kind="update"), "bad signature"),
    "passed on": (state_of("carol", 7, b"state").offer, "not the sender's word"),
}


@pytest.mark.parametrize(("offer", "told"), FORGED.values(), ids=FORGED.keys())
def test_a_state_that_no_honest_party_offers_is_a_violation(offer: Offer, told: str) -> None:
    net, alice, bob, line = joined(wanted=lambda offer: True)
    net.say(line, bob, OfferBody(offer), round=offer.round, transfer=1)
    failed = alice.only(Failed)
    assert isinstance(failed.error, ProtocolViolation)
    assert told in failed.error.message
    assert alice.talk.receiving.incomplete == ()


def test_to_say_that_a_state_is_stored_is_a_violation() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(STATE_7)
    net.pump()
    body = StoredBody(STATE_7.offer.manifest.root[:8], receipt("alice", STATE_7.offer))
    net.say(line, alice, body, round=7, transfer=1)
    assert "in no ledger" in bob.only(Failed).error.message
    assert not bob.of(Delivered)


def test_a_state_and_updates_of_two_rounds_are_on_their_way_together() -> None:
    net, alice, bob, _ = joined()
    net.lose = lambda frame: frame.type is Type.DATA
    bob.talk.offer(STATE_7)
    for round in (7, 8):
        bob.talk.offer(signed("bob", round, bytes(500)))
    net.pump()
    assert len(alice.talk.receiving.incomplete) == 3
    assert not alice.of(Failed)


def test_more_states_at_once_than_two_are_a_resource_limit() -> None:
    net, alice, bob, line = joined()
    for transfer, round in enumerate(range(9, 9 - MAX_TRANSFERS - 1, -1), start=1):
        assert not alice.of(Failed)
        offer = state_of("bob", round, b"the state").offer
        net.say(line, bob, OfferBody(offer), round=round, transfer=transfer)
    assert isinstance(alice.only(Failed).error, ResourceLimit)


def test_two_different_states_of_one_round_are_a_violation() -> None:
    net, alice, bob, line = joined()
    for number in (1, 2):
        offer = state_of("bob", 7, bytes(number)).offer
        net.say(line, bob, OfferBody(offer), round=7, transfer=number)
    assert "two different signed payloads (state)" in alice.only(Failed).error.message


def test_a_state_can_be_fetched_for_some_rounds_more() -> None:
    """Whoever is behind would otherwise fetch none where that takes longer than a round."""
    bob = joined(accept=lambda offer: LATER).bob
    bob.talk.offer(STATE_7)
    bob.talk.offer(outgoing("bob", 7))
    for round in range(8, 8 + STATE_ROUNDS):
        bob.talk.offer(state_of("bob", round, b"%d" % round))
        bob.talk.discard(round - 1)
        kept = {(offer.kind, offer.round) for offer in bob.talk.sending.due(0)}
        assert ("update", 7) not in kept
        assert (("state", 7) in kept) == (round - 1 < 7 + STATE_ROUNDS)
    bob.talk.discard(7 + STATE_ROUNDS)
    assert ("state", 7) not in {(offer.kind, offer.round) for offer in bob.talk.sending.due(0)}
