"""Floods of frames end the peer that sends them, and its other connections end only themselves."""

from __future__ import annotations

import pytest

from splitfed.errors import ProtocolViolation, ResourceLimit
from splitfed.transport.allowance import BURST, RATE, Allowance
from splitfed.transport.conversation import MOST_IGNORED
from splitfed.transport.events import Failed, Noticed, Status
from splitfed.transport.frames import Pull, StatusBody
from splitfed.transport.handshake import MAX_CHANNELS
from splitfed.transport.states import State
from tests.support.talk import CHUNK, Party, channel_of, joined, outgoing

BUSY = StatusBody(Status("training", 1, 1, 9))


def test_an_allowance_is_used_up_and_comes_back_with_time_and_chunks() -> None:
    allowance = Allowance(burst=3, rate=2.0)
    assert [allowance.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(0.5), allowance.take(0.5)] == [True, False]
    allowance.earn()
    assert [allowance.take(0.5), allowance.take(0.5)] == [True, False]
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_a_flood_of_valid_frames_ends_the_peer() -> None:
    net, alice, bob, line = joined()
    for _ in range(BURST + 1):
        net.say(line, bob, BUSY)
    error = alice.only(Failed).error
    assert isinstance(error, ResourceLimit)
    assert "bob" in error.message
    assert "flood" in error.message


def test_frames_at_the_rate_of_the_allowance_are_no_flood() -> None:
    net, alice, bob, line = joined()
    for _ in range(2 * BURST):
        net.now += 1 / RATE
        net.say(line, bob, BUSY)
    assert not alice.of(Failed)


def test_a_transfer_of_more_chunks_than_the_allowance_is_no_flood() -> None:
    net, alice, bob, _ = joined()
    out = outgoing("bob", 1, (BURST + 500) * CHUNK)
    bob.talk.offer(out)
    net.pump(limit=4 * BURST)
    assert alice.talk.receiving.payload_bytes == len(out.payload)
    assert not alice.of(Failed)
    assert not bob.of(Failed)


def test_chunks_that_are_here_already_are_a_flood_in_the_end() -> None:
    net, alice, bob, line = joined()
    out = outgoing("bob", 1, 2 * CHUNK)
    bob.talk.offer(out)
    net.pump()
    (data, *_) = [frame for frame in net.passed if frame.type.name == "DATA"]
    for _ in range(BURST + 1):
        net.say_raw(
            line, bob, data.type, data.body, round=data.header.round, transfer=data.header.transfer
        )
    assert isinstance(alice.only(Failed).error, ResourceLimit)


def test_one_payload_is_not_sent_without_end_to_a_peer_that_keeps_asking() -> None:
    net, alice, bob, line = joined()
    out = outgoing("alice", 1, 4 * CHUNK)
    alice.talk.offer(out)
    net.pump()
    sent = alice.talk.payload_sent
    assert sent == len(out.payload)
    for _ in range(40):
        net.say(line, bob, Pull(((0, 1),)), transfer=1, round=1)
        while net.take(alice):
            pass
    assert isinstance(alice.only(Failed).error, ResourceLimit)
    assert alice.talk.payload_sent <= 4 * len(out.payload)


def test_of_many_connections_the_wire_is_to_drop_the_idle_ones_and_the_session_stays() -> None:
    net, alice, _, line = joined()
    session = alice.talk.current
    other = Party("bob", "alice")
    lines = [net.connect(other, alice) for _ in range(3 * MAX_CHANNELS)]
    for one in lines:
        net.inject(one, alice, b"", b"")  # no header at all: it closes that connection alone
    assert alice.talk.current is session
    assert not alice.of(Failed)
    assert len(alice.talk.channels) == MAX_CHANNELS
    assert len(alice.talk.unwanted) == 2 * MAX_CHANNELS + 1
    assert line.name not in alice.talk.unwanted


def test_whoever_goes_on_talking_on_a_closed_connection_is_dropped() -> None:
    net, alice, _, line = joined()
    net.inject(line, alice, b"no header", b"")
    assert isinstance(alice.only(Failed).error, ProtocolViolation)
    for _ in range(MOST_IGNORED):
        net.inject(line, alice, b"no header", b"")
    assert not alice.talk.unwanted
    net.inject(line, alice, b"no header", b"")
    assert alice.talk.unwanted == [line.name]


def test_a_flood_on_a_second_connection_leaves_the_session_alone() -> None:
    net, alice, _, line = joined()
    other = Party("bob", "alice")
    second = net.connect(other, alice)
    for _ in range(BURST + 1):
        net.say(second, other, BUSY, session=b"s" * 16)
    assert channel_of(alice, second).state is State.CLOSED
    assert not alice.of(Failed)
    assert "flood" in alice.of(Noticed)[-1].error.message
    assert alice.talk.current is channel_of(alice, line)


@pytest.mark.parametrize("limit", [BURST, RATE])
def test_the_allowance_is_far_above_what_a_round_needs(limit: float) -> None:
    net, alice, bob, _ = joined()
    before = len(net.passed)
    for party in (alice, bob):
        party.talk.offer(outgoing(party.name, 1, 64 * CHUNK))
    net.pump()
    control = [frame for frame in net.passed[before:] if frame.type.name != "DATA"]
    assert len(control) < limit / 10
