"""What no honest party sends: it ends that party, and nothing of it is believed."""

from __future__ import annotations

import msgspec
import pytest

from splitfed.entries import entry_message
from splitfed.errors import IntegrityError, ProtocolViolation, ResourceLimit
from splitfed.transport.assembly import BAD_CHUNKS_ALLOWED
from splitfed.transport.events import (
    Delivered,
    Failed,
    Noticed,
    Offer,
    OfferRefused,
)
from splitfed.transport.frames import OfferBody, Pull, StoredBody, Type
from tests.support.talk import (
    CHUNK,
    Net,
    Passed,
    arrived,
    joined,
    offer_of,
    outgoing,
    receipt,
    replace,
    sign,
    stored_body,
)

BIG = 12 * CHUNK + 5


def chunks_sent(net: Net, sender: str) -> list[int]:
    return [frame.header.chunk for frame in net.of(Type.DATA, sender)]


def damage(frame: Passed) -> tuple[object, bytes]:
    """A chunk on its way with one byte changed."""
    return frame.header, bytes([frame.body[0] ^ 1]) + frame.body[1:]


def test_a_damaged_chunk_is_pulled_again_and_reported() -> None:
    net, alice, bob, _ = joined()
    out = outgoing("bob")
    hit: list[int] = []

    def alter(frame: Passed) -> tuple[object, bytes]:
        if frame.type is Type.DATA and frame.header.chunk == 3 and len(hit) < BAD_CHUNKS_ALLOWED:
            hit.append(3)
            return damage(frame)
        return frame.header, frame.body

    net.alter = alter
    bob.talk.offer(out)
    net.pump()
    assert arrived(alice) == [out.payload]
    assert [type(event.error) for event in alice.of(Noticed)] == [IntegrityError] * 3
    assert chunks_sent(net, "bob").count(3) == 4


def test_a_sender_of_bad_chunks_is_ended_and_nothing_of_it_arrives() -> None:
    net, alice, bob, _ = joined()
    net.alter = lambda f: damage(f) if f.type is Type.DATA else (f.header, f.body)
    bob.talk.offer(outgoing("bob"))
    net.pump()
    assert isinstance(alice.only(Failed).error, ProtocolViolation)
    assert not arrived(alice)
    assert alice.talk.receiving.incomplete == ()
    assert bob.of(Failed)


def test_an_offer_that_accept_refuses_is_reported_once_and_never_pulled() -> None:
    asked: list[Offer] = []

    def accept(offer: Offer) -> str | None:
        asked.append(offer)
        return "round 1 is closed" if offer.party == "bob" else None

    net, alice, bob, line = joined(accept=accept)
    out = outgoing("bob")
    bob.talk.offer(out)
    net.pump()
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    refused = alice.only(OfferRefused)
    assert (refused.offer, refused.reason) == (out.offer, "round 1 is closed")
    assert asked == [out.offer, out.offer]
    assert Type.PULL not in net.types()
    assert alice.talk.receiving.incomplete == ()
    assert not alice.of(Failed)


def test_an_offer_refused_for_now_may_be_accepted_later() -> None:
    open_round = [1]
    net, alice, bob, line = joined(
        accept=lambda offer: None if offer.round <= open_round[0] else "too early"
    )
    out = outgoing("bob", 2)
    bob.talk.offer(out)
    net.pump()
    assert alice.of(OfferRefused)
    open_round[0] = 2
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [out.payload]


def test_memory_is_set_aside_only_after_accept_said_yes() -> None:
    seen: list[tuple[object, ...]] = []
    net, alice, bob, _ = joined(
        accept=lambda offer: seen.append(alice.talk.receiving.incomplete) or "no"
    )
    bob.talk.offer(outgoing("bob"))
    net.pump()
    assert seen == [()]


HOSTILE = outgoing("bob")
FORGERIES = {
    "a bad signature": replace(HOSTILE.offer, signature=bytes(64)),
    "another round than signed": replace(HOSTILE.offer, round=2),
    "another run than signed": replace(HOSTILE.offer, run=bytes(32)),
    "another kind than signed": replace(HOSTILE.offer, kind="outputs"),
    "in another party's name": replace(HOSTILE.offer, party="carol"),
    "in nobody's name": replace(HOSTILE.offer, party="mallory"),
    "another party's with a false entry": replace(outgoing("carol").offer, head=bytes(32)),
    "a wrong root": offer_of("bob", 1, replace(HOSTILE.offer.manifest, root=bytes(32))),
    "a false total": offer_of("bob", 1, replace(HOSTILE.offer.manifest, total=1 << 40)),
}


@pytest.mark.parametrize("offer", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_offer_ends_the_peer_before_accept_is_asked(offer: Offer) -> None:
    asked: list[Offer] = []
    net, alice, bob, line = joined(accept=lambda offer: asked.append(offer))
    net.say(line, bob, OfferBody(offer), round=offer.round, transfer=1)
    assert isinstance(alice.only(Failed).error, ProtocolViolation)
    assert not asked
    assert alice.talk.current is None


def test_an_offer_whose_header_names_another_round_is_a_violation() -> None:
    net, alice, bob, line = joined()
    net.say(line, bob, OfferBody(HOSTILE.offer), round=2, transfer=1)
    assert isinstance(alice.only(Failed).error, ProtocolViolation)


def test_a_second_payload_for_one_round_is_a_violation() -> None:
    net, alice, bob, line = joined()
    net.say(line, bob, OfferBody(outgoing("bob", seed="one").offer), round=1, transfer=1)
    net.say(line, bob, OfferBody(outgoing("bob", seed="two").offer), round=1, transfer=2)
    assert "two different" in alice.only(Failed).error.message


def test_an_offer_repeated_in_one_session_is_a_violation() -> None:
    net, alice, bob, line = joined()
    for transfer in (1, 2):
        net.say(line, bob, OfferBody(HOSTILE.offer), round=1, transfer=transfer)
    assert "repeated" in alice.only(Failed).error.message


def test_more_payloads_at_once_than_two_are_a_resource_limit() -> None:
    net, alice, bob, line = joined()
    for transfer, kind in enumerate(("update", "outputs", "more"), 1):
        offer = offer_of("bob", 1, HOSTILE.offer.manifest, kind=kind)
        net.say(line, bob, OfferBody(offer), round=1, transfer=transfer)
    assert isinstance(alice.only(Failed).error, ResourceLimit)
    assert alice.talk.receiving.incomplete == ()


def test_a_flood_of_offers_to_refuse_is_a_resource_limit() -> None:
    net, alice, bob, line = joined(accept=lambda offer: "no")
    for number in range(1, 70):
        out = outgoing("bob", number)
        net.say(line, bob, OfferBody(out.offer), round=number, transfer=number)
    assert isinstance(alice.only(Failed).error, ResourceLimit)
    assert len(alice.of(OfferRefused)) <= 64


@pytest.mark.parametrize(
    "header",
    [
        {"transfer": 9},
        {"chunk": 9},
        {"chunk": 1_000_000},
        {"offset": 1},
        {"round": 2},
        {"length": 1},
    ],
)
def test_data_that_answers_no_pull_is_a_violation(header: dict[str, int]) -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob")
    net.say(line, bob, OfferBody(out.offer), round=1, transfer=1)
    fields = {"transfer": 1, "round": 1, "chunk": 0, "offset": 0} | header
    net.say_raw(line, bob, Type.DATA, out.payload[:CHUNK], **fields)
    assert isinstance(alice.only(Failed).error, ProtocolViolation)


def test_data_of_a_refused_offer_is_a_violation() -> None:
    net, alice, bob, line = joined(accept=lambda offer: "no")
    out = outgoing("bob")
    net.say(line, bob, OfferBody(out.offer), round=1, transfer=1)
    net.say_raw(line, bob, Type.DATA, out.payload[:CHUNK], transfer=1, round=1)
    assert isinstance(alice.only(Failed).error, ProtocolViolation)


@pytest.mark.parametrize(
    ("body", "transfer"),
    [
        (Pull(((0, 1),)), 9),
        (Pull(((0, 0),)), 1),
        (Pull(((0, 11),)), 1),
        (Pull(((2**32 - 1, 2**32 - 1),)), 1),
        (StoredBody(b"rootroot", bytes(64)), 1),
        (stored_body("alice", HOSTILE.offer), 9),
    ],
)
def test_an_answer_to_nothing_that_was_offered_is_a_violation(body: object, transfer: int) -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(HOSTILE)
    while net.take(bob):
        pass
    net.say(line, alice, body, transfer=transfer, round=1)
    assert isinstance(bob.only(Failed).error, ProtocolViolation)


@pytest.mark.parametrize("of", ["alice over another entry", "carol", "nobody"])
def test_a_stored_whose_counter_signature_is_not_the_peers_over_this_entry_is_a_violation(
    of: str,
) -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(HOSTILE)
    net.pump()
    signature = {
        "alice over another entry": receipt("alice", outgoing("bob", 2).offer),
        "carol": receipt("carol", HOSTILE.offer),
        "nobody": bytes(64),
    }[of]
    body = StoredBody(HOSTILE.offer.manifest.root[:8], signature)
    net.say(line, alice, body, transfer=1, round=1)
    assert "with a bad counter-signature" in bob.only(Failed).error.message
    assert not bob.of(Delivered)


def test_an_offer_whose_ledger_entry_is_not_signed_is_not_pulled() -> None:
    for field in ("number", "head", "entry_signature"):
        offer = outgoing("bob").offer
        changed = {"number": 7, "head": bytes(32), "entry_signature": bytes(64)}[field]
        net, alice, bob, line = joined()
        body = OfferBody(replace(offer, **{field: changed}))
        net.say(line, bob, body, round=1, transfer=1)
        net.pump()
        assert "ledger entry has a bad signature" in alice.only(Failed).error.message
        assert Type.PULL not in net.types("alice")


def test_a_second_ledger_entry_of_one_round_is_a_violation_that_carries_its_evidence() -> None:
    net, alice, bob, line = joined()
    first = outgoing("bob").offer
    head = bytes(32)
    fields = {"run": first.run, "party": "bob", "root": first.manifest.root, "round": 1}
    message = entry_message(number=2, head=head, kind="update", **fields)
    second = replace(first, number=2, head=head, entry_signature=sign("bob", message))
    for transfer, offer in enumerate((first, second), start=1):
        net.say(line, bob, OfferBody(offer), round=1, transfer=transfer)
    error = alice.only(Failed).error
    assert isinstance(error, ProtocolViolation)
    assert "two different signed ledger entries" in error.message
    assert msgspec.msgpack.decode(error.evidence, type=Offer) == second


def test_a_flood_of_pulls_is_a_resource_limit() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(HOSTILE)
    while net.take(bob):
        pass
    net.say(line, alice, Pull(((0, 10), (0, 10))), transfer=1, round=1)
    assert isinstance(bob.only(Failed).error, ResourceLimit)
    assert bob.talk.sending.peek() is None


def test_a_violation_is_told_to_the_peer_which_learns_why() -> None:
    net, alice, bob, line = joined()
    net.say(line, bob, StoredBody(b"rootroot", bytes(64)), transfer=1)
    net.pump()
    assert "never offered" in bob.only(Failed).error.message
    assert alice.talk.settled


def test_after_a_violation_nothing_of_the_peer_is_looked_at() -> None:
    net, alice, bob, line = joined()
    net.say(line, bob, StoredBody(b"rootroot", bytes(64)), transfer=1)
    events = len(alice.events)
    net.say(line, bob, OfferBody(HOSTILE.offer), round=1, transfer=1)
    alice.talk.offer(outgoing("alice"))
    net.tick(100.0)
    assert alice.events[events:] == []
    assert Type.OFFER not in net.types("alice")
