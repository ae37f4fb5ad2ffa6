"""Votes, status, stalls, and what all of it costs on the wire."""

from __future__ import annotations

import random

import pytest

from splitfed.errors import Defect, PeerStalled, ProtocolViolation
from splitfed.tensors import manifest_of
from splitfed.transport.events import (
    Failed,
    LinkBroken,
    Noticed,
    Outgoing,
    Status,
    StatusChanged,
    Voted,
)
from splitfed.transport.exchange import STALL, Settings
from splitfed.transport.frames import Type, Vote
from splitfed.types import TensorSpec
from tests.support.talk import (
    CHUNK,
    Net,
    Party,
    arrived,
    joined,
    offer_of,
    outgoing,
    signed_vote,
)

BIG = 12 * CHUNK + 5


def test_a_vote_is_handed_up_once_however_often_it_is_sent() -> None:
    net, alice, bob, line = joined()
    bob.talk.vote(3, *signed_vote("bob", b"yes"))
    net.pump()
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    voted = alice.only(Voted)
    assert (voted.round, voted.body) == (3, b"yes")
    assert len(net.of(Type.VOTE)) == 2


def test_two_votes_for_one_round_are_both_handed_up() -> None:
    net, alice, bob, _ = joined()
    for body in (b"yes", b"no"):
        bob.talk.vote(3, *signed_vote("bob", body))
    net.pump()
    assert [event.body for event in alice.of(Voted)] == [b"yes", b"no"]


def test_a_vote_with_a_bad_signature_is_a_violation() -> None:
    net, alice, bob, line = joined()
    net.say(line, bob, Vote(b"yes", bytes(64)), round=1)
    assert isinstance(alice.only(Failed).error, ProtocolViolation)
    assert not alice.of(Voted)


@pytest.mark.parametrize("genuine", [True, False])
def test_an_open_vote_of_the_greeting_must_be_the_peers_own(genuine: bool) -> None:
    body, signature = signed_vote("bob" if genuine else "carol", b"open")
    net, alice = Net(), Party("alice", "bob")
    bob = Party("bob", "alice", open_vote=body, open_vote_signature=signature)
    net.connect(bob, alice)
    net.pump()
    assert bool(alice.of(Failed)) is not genuine
    assert (alice.talk.current is not None) is genuine


def test_status_is_sent_every_ten_seconds_and_sooner_when_the_phase_changes() -> None:
    net, alice, bob, _ = joined()
    net.tick(0.0)
    bob.talk.status = Status("training", 1, 0, 30)
    net.tick(0.5)
    assert len(net.of(Type.STATUS, "bob")) == 1
    net.tick(0.5)
    assert len(net.of(Type.STATUS, "bob")) == 2
    bob.talk.status = Status("training", 1, 5, 30)
    net.tick(9.9)
    assert len(net.of(Type.STATUS, "bob")) == 2
    net.tick(0.1)
    assert alice.of(StatusChanged)[-1].status == Status("training", 1, 5, 30)
    assert alice.talk.since_change == net.now
    net.tick(10.0)
    assert alice.talk.last_sign_of_life == net.now
    assert alice.talk.since_change == net.now - 10.0


def test_an_open_transfer_without_a_new_byte_is_a_stall_and_the_dialer_connects_anew() -> None:
    net, alice, bob, line = joined()
    # Chunks that vanish and nothing after them: only the clock can tell.
    net.lose = lambda frame: frame.sender == "alice" and frame.type is Type.DATA
    alice.talk.offer(outgoing("alice"))
    net.pump()
    net.now += STALL - 0.1
    bob.talk.tick(net.now)
    assert not bob.talk.wants_rebuild
    net.now += 0.2
    bob.talk.tick(net.now)
    net.collect(bob)
    assert bob.talk.wants_rebuild
    assert isinstance(bob.of(Noticed)[-1].error, PeerStalled)
    assert bob.of(LinkBroken)
    net.lose = lambda frame: False
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert arrived(bob) == [outgoing("alice").payload]


def test_a_listener_whose_transfer_stalls_makes_the_dialer_greet_again() -> None:
    net, alice, bob, _ = joined()
    net.lose = lambda frame: frame.sender == "bob" and frame.type is Type.DATA
    bob.talk.offer(outgoing("bob"))
    net.pump()
    net.now += 60.0
    alice.talk.tick(net.now)
    net.collect(alice)
    assert isinstance(alice.of(Noticed)[-1].error, PeerStalled)
    assert not alice.talk.wants_rebuild
    net.lose = lambda frame: False
    net.pump()
    assert arrived(alice) == [outgoing("bob").payload]


def test_a_slow_transfer_is_no_stall() -> None:
    net, alice, bob, line = joined()
    bob.talk.offer(outgoing("bob", size=BIG))
    while not arrived(alice):
        net.take(bob)
        if net.deliver(line, alice):
            net.now += 59.0
        alice.talk.tick(net.now)
        net.take(alice)
        net.deliver(line, bob)
    assert not any(isinstance(e.error, PeerStalled) for e in alice.of(Noticed))


def test_nothing_is_owed_and_nothing_stalls_between_rounds() -> None:
    net, alice, bob, _ = joined()
    bob.talk.offer(outgoing("bob"))
    net.pump()
    for _ in range(200):
        net.tick(10.0)
    assert not alice.of(Noticed)


def test_the_deadline_is_when_the_next_thing_is_due() -> None:
    net, alice, bob, line = joined()
    net.tick(0.0)
    assert alice.talk.deadline() == net.now + 10.0
    net.cut(line)
    assert alice.talk.deadline() == float("inf")
    net.connect(bob, alice)
    assert bob.talk.deadline() == net.now + 10.0


def demo_payload(party: str) -> Outgoing:
    """Round 5's update with the tensors of the demo: two convolutions."""
    specs = (
        TensorSpec("conv1.bias", (32,), "float32"),
        TensorSpec("conv1.weight", (32, 1, 3, 3), "float32"),
        TensorSpec("conv2.bias", (64,), "float32"),
        TensorSpec("conv2.weight", (64, 32, 3, 3), "float32"),
    )
    payload = random.Random(party).randbytes(sum(spec.nbytes for spec in specs))
    return Outgoing(offer_of(party, 5, manifest_of(payload, specs)), payload)


def test_the_control_bytes_of_a_round_fit_in_2_kib() -> None:
    framing = 2 * 40  # CURVE and ZMTP, for each of the two parts of a message
    net, alice, bob, _ = joined(settings=Settings())
    net.tick(0.0)
    before = len(net.passed)
    for party in (alice, bob):
        party.talk.status = Status("training", 5, 0, 32)
    net.tick(2.0)
    for party, other in ((alice, bob), (bob, alice)):
        party.talk.status = Status("exchanging", 5, 32, 32)
        out = demo_payload(party.name)
        party.talk.offer(out)
        party.talk.vote(5, *signed_vote(party.name, bytes(250)))
        net.pump()
        other.holds(out.offer)
    net.tick(2.0)
    for sender in ("alice", "bob"):
        frames = [frame for frame in net.passed[before:] if frame.sender == sender]
        assert {frame.type for frame in frames} == {
            Type.OFFER,
            Type.PULL,
            Type.DATA,
            Type.STORED,
            Type.VOTE,
            Type.STATUS,
        }
        bodies = sum(len(frame.body) for frame in frames if frame.type is not Type.DATA)
        assert len(frames) * (64 + framing) + bodies <= 2048


def test_a_payload_that_is_not_what_its_manifest_says_is_a_defect_of_ours() -> None:
    _, _, bob, _ = joined()
    out = outgoing("bob")
    with pytest.raises(Defect):
        bob.talk.offer(type(out)(out.offer, out.payload + b"x"))


def test_the_view_says_what_is_missing() -> None:
    net, alice, bob, line = joined()
    net.lose = lambda frame: frame.type is Type.DATA and frame.header.chunk > 3
    bob.talk.offer(outgoing("bob"))
    net.pump()
    view = alice.talk.view
    assert view.state == "connected"
    assert view.awaiting == "update of round 1: 6 of 10 chunks"
    net.cut(line)
    assert alice.talk.view.state == "absent"


def awaiting(*names: str) -> Status:
    return Status("waiting", 3, 0, 0, awaits=names)


def test_for_whose_word_a_party_waits_is_told_at_once_and_is_no_progress() -> None:
    net, alice, bob, _ = joined()
    bob.talk.status = awaiting()
    net.tick(0.0)
    since = net.now
    assert alice.talk.since_change == since
    for count, names in enumerate((("carol",), ("alice", "carol"), ("alice",)), start=2):
        bob.talk.status = awaiting(*names)
        net.tick(0.9)
        assert len(net.of(Type.STATUS, "bob")) == count - 1
        net.tick(0.1)
        assert len(net.of(Type.STATUS, "bob")) == count
        assert alice.of(StatusChanged)[-1].status.awaits == names
    assert alice.talk.since_change == since


def test_that_nobody_is_awaited_any_more_is_told_in_time_and_is_no_progress() -> None:
    net, alice, bob, _ = joined()
    bob.talk.status = awaiting("carol")
    net.tick(0.0)
    since = net.now
    bob.talk.status = awaiting()
    net.tick(9.9)
    assert len(net.of(Type.STATUS, "bob")) == 1
    net.tick(0.1)
    assert alice.of(StatusChanged)[-1].status == awaiting()
    assert alice.talk.since_change == since
    bob.talk.status = Status("waiting", 3, 1, 9)
    net.tick(10.0)
    assert alice.talk.since_change == net.now
