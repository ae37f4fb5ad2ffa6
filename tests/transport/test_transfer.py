"""Payloads between two conversations: everything arrives, once, and verified."""

from __future__ import annotations

import pytest

from splitfed.transport.events import (
    Arrived,
    Delivered,
    Failed,
    Voted,
)
from splitfed.transport.frames import Type
from tests.support.talk import (
    CHUNK,
    WINDOW,
    Net,
    Party,
    arrived,
    joined,
    outgoing,
    receipt,
    replace,
    signed,
    signed_vote,
)

BIG = 12 * CHUNK + 5


def chunks_sent(net: Net, sender: str) -> list[int]:
    return [frame.header.chunk for frame in net.of(Type.DATA, sender)]


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK + 1, BIG])
def test_both_payloads_arrive_once_and_whole(size: int) -> None:
    net, alice, bob, _ = joined()
    outs = {party.name: outgoing(party.name, size=size) for party in (alice, bob)}
    for party in (alice, bob):
        party.talk.offer(outs[party.name])
    net.pump()
    assert arrived(alice) == [outs["bob"].payload]
    assert arrived(bob) == [outs["alice"].payload]
    assert alice.only(Arrived).offer == outs["bob"].offer


def test_stored_is_said_only_when_the_app_has_it_and_told_once() -> None:
    net, alice, bob, _ = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    net.pump()
    assert Type.STORED not in net.types()
    assert not bob.of(Delivered)
    for _ in range(2):
        alice.holds(out.offer)
        net.pump()
    delivered = bob.only(Delivered)
    assert (delivered.round, delivered.offer) == (1, out.offer)
    assert delivered.counter_signature == receipt("alice", out.offer)


def test_bytes_asked_for_never_exceed_the_window() -> None:
    net, alice, bob, _ = joined()
    bob.talk.offer(outgoing("bob", size=BIG))
    alice_asked: list[int] = []
    while net.take(bob) or net.take(alice):
        for line in net.lines.values():
            net.deliver(line, alice)
            net.deliver(line, bob)
        alice_asked.append(alice.talk.receiving.in_flight)
    assert max(alice_asked) == WINDOW
    assert alice_asked[-1] == 0


def test_one_pull_asks_for_half_a_window_at_least() -> None:
    net, _, bob, _ = joined()
    bob.talk.offer(outgoing("bob", size=400 * CHUNK))
    net.pump()
    assert len(net.of(Type.DATA)) == 400
    assert len(net.of(Type.PULL)) <= 400 / (WINDOW / CHUNK / 2)


def test_control_frames_overtake_waiting_chunks() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(outgoing("bob"))
    while not bob.talk.sending.peek():
        net.take(bob)
        net.deliver(line, alice)
        net.take(alice)
        net.deliver(line, bob)
    bob.talk.vote(1, *signed_vote("bob", b"urgent"))
    net.take(bob)
    assert net.passed[-1].type is Type.VOTE


def test_a_chunk_for_which_the_wire_has_no_room_is_not_lost() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob", size=BIG)
    bob.talk.offer(out)
    net.take(bob)
    net.deliver(line, alice)
    net.take(alice)
    net.deliver(line, bob)
    line.full = True
    net.pump()
    assert not arrived(alice)
    line.full = False
    net.pump()
    assert arrived(alice) == [out.payload]
    assert chunks_sent(net, "bob") == list(range(13))


def test_a_chunk_is_sent_as_a_view_of_the_payload_and_not_as_a_copy() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    while bob.talk.sending.peek() is None:
        net.take(bob)
        net.deliver(line, alice)
        net.take(alice)
        net.deliver(line, bob)
    frame = bob.talk.peek()
    assert frame is not None
    body = frame[3]
    assert isinstance(body, memoryview)
    assert body.obj is out.payload


def test_rounds_follow_each_other_and_equal_payloads_of_two_rounds_are_two() -> None:
    net, alice, bob, _ = joined()
    for round in (1, 2, 3):
        out = signed("bob", round, b"the same bytes every round")
        bob.talk.offer(out)
        net.pump()
        alice.holds(out.offer)
        net.pump()
        alice.talk.discard(round - 1)
        bob.talk.discard(round - 1)
    assert [event.offer.round for event in alice.of(Arrived)] == [1, 2, 3]
    assert [event.round for event in bob.of(Delivered)] == [1, 2, 3]


def test_a_long_federation_needs_no_more_memory_than_a_short_one() -> None:
    net, alice, bob, _ = joined()
    for round in range(1, 101):
        for party, other in ((alice, bob), (bob, alice)):
            out = outgoing(party.name, round, 2 * CHUNK)
            party.talk.offer(out)
            party.talk.vote(round, *signed_vote(party.name, round.to_bytes(4, "big")))
            net.pump()
            other.holds(out.offer)
            net.pump()
        alice.talk.discard(round - 1)
        bob.talk.discard(round - 1)
    assert len(alice.of(Arrived)) == len(alice.of(Voted)) == len(alice.of(Delivered)) == 100
    receiving, sending = vars(alice.talk.receiving), vars(alice.talk.sending)
    sizes = {k: len(v) for k, v in (receiving | sending).items() if isinstance(v, set | dict)}
    del sizes["_transfers"]  # numbers of this session, a few bytes each
    assert max(sizes.values()) <= 6, sizes


@pytest.mark.parametrize("after", range(1, 14))
def test_after_a_break_only_what_is_missing_is_pulled(after: int) -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob", size=BIG)
    bob.talk.offer(out)
    while len(net.of(Type.DATA)) < after:
        net.take(bob)
        net.deliver(line, alice)
        net.take(alice)
        net.deliver(line, bob)
    held = 13 - alice.talk.receiving.incomplete[0].missing if not arrived(alice) else 13
    assert held >= after - 1
    net.cut(line)
    before = len(net.of(Type.DATA))
    net.connect(bob, alice)
    net.pump()
    assert arrived(alice) == [out.payload]
    assert len(net.of(Type.DATA)) - before == 13 - held
    assert alice.talk.receiving.resumes == (1 if 0 < held < 13 else 0)


def test_a_break_before_stored_costs_an_offer_and_no_payload() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    net.pump()
    net.cut(line)
    alice.holds(out.offer)
    sent = len(net.of(Type.DATA))
    net.connect(bob, alice)
    net.pump()
    assert len(net.of(Type.DATA)) == sent
    assert len(alice.of(Arrived)) == 1
    assert bob.only(Delivered)


def test_an_app_that_stores_after_the_reconnection_is_heard() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    net.pump()
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert not bob.of(Delivered)
    alice.holds(out.offer)
    net.pump()
    assert bob.only(Delivered)
    assert len(alice.of(Arrived)) == 1


def test_what_was_delivered_is_not_offered_again_to_the_same_process() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    net.pump()
    alice.holds(out.offer)
    net.pump()
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert len(net.of(Type.OFFER)) == 1


def test_what_an_earlier_life_stored_is_not_pulled_again() -> None:
    net, _, bob, _ = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    net.pump()
    fresh = reborn()
    fresh.holds(out.offer)
    sent = len(net.of(Type.DATA))
    net.connect(bob, fresh)
    net.pump()
    assert len(net.of(Type.DATA)) == sent
    assert bob.only(Delivered)
    assert not fresh.of(Arrived)


def reborn() -> Party:
    """Alice's next process."""
    return Party("alice", "bob", boot=2)


def test_equal_bytes_of_another_round_than_the_stored_one_are_pulled() -> None:
    net, _alice, bob, line = joined()
    net.cut(line)
    same = [signed("bob", round, b"the same bytes every round") for round in (1, 2)]
    fresh = reborn()
    fresh.holds(same[0].offer)
    for out in reversed(same):
        bob.talk.offer(out)
    net.connect(bob, fresh)
    net.pump()
    assert [event.offer.round for event in fresh.of(Arrived)] == [2]
    assert [event.round for event in bob.of(Delivered)] == [1]


def test_a_peer_that_restarted_with_nothing_gets_everything_again() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob")
    bob.talk.offer(out)
    bob.talk.vote(1, *signed_vote("bob", b"my vote"))
    net.pump()
    alice.holds(out.offer)
    net.pump()
    net.cut(line)
    fresh = reborn()
    net.connect(bob, fresh)
    net.pump()
    assert arrived(fresh) == [out.payload]
    assert fresh.only(Voted).body == b"my vote"


def test_a_peer_that_closed_the_round_is_not_offered_it_again() -> None:
    net, alice, bob, line = joined()
    for round in (1, 2):
        bob.talk.offer(outgoing("bob", round))
        bob.talk.vote(round, *signed_vote("bob", round.to_bytes(1, "big")))
    net.pump()
    net.cut(line)
    alice.talk.greeting = replace(alice.talk.greeting, closed_round=1)
    before = len(net.passed)
    net.connect(bob, alice)
    net.pump()
    again = net.passed[before:]
    assert [f.header.round for f in again if f.type is Type.OFFER] == [2]
    assert [f.header.round for f in again if f.type is Type.VOTE] == [2]


def test_the_offer_of_the_round_before_is_kept_and_older_ones_are_not() -> None:
    net, alice, bob, line = joined()
    for round in (1, 2, 3):
        bob.talk.offer(outgoing("bob", round))
        bob.talk.vote(round, *signed_vote("bob", bytes([round])))
    net.pump()
    net.cut(line)
    before = len(net.passed)
    net.connect(bob, alice)
    net.pump()
    offered = [f.header.round for f in net.passed[before:] if f.type in (Type.OFFER, Type.VOTE)]
    assert offered == [2, 3, 2, 3]


def test_what_was_discarded_is_neither_offered_nor_sent_and_a_late_pull_is_stale() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(outgoing("bob"))
    net.take(bob)
    net.deliver(line, alice)
    bob.talk.discard(1)
    net.pump()
    assert not net.of(Type.DATA)
    assert bob.talk.stale == 1
    assert not bob.of(Failed)


def test_credit_is_reset_by_a_break_and_never_counted_twice() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(outgoing("bob", size=BIG))
    for _ in range(20):
        net.take(bob)
        net.deliver(line, alice)
        net.take(alice)
        net.deliver(line, bob)
        net.cut(line)
        assert alice.talk.receiving.in_flight == 0
        line = net.connect(bob, alice)
        net.pump(limit=200)
        assert alice.talk.receiving.in_flight <= WINDOW
    assert len(arrived(alice)) == 1
