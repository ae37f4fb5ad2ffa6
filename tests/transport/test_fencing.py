"""One key, one process: who may take a session over, and who is refused."""

from __future__ import annotations

import pytest

from splitfed.errors import KeyInUse
from splitfed.transport.events import (
    Failed,
    Greeted,
    LinkBroken,
    Noticed,
    Voted,
)
from splitfed.transport.frames import Header, Type, Vote
from splitfed.transport.states import State
from splitfed.transport.wire import Message
from tests.support.talk import Net, Party, channel_of, joined, signed_vote


@pytest.mark.parametrize("boot", [1, 2])
def test_the_same_folder_with_the_same_or_a_later_boot_takes_over(boot: int) -> None:
    net, alice, _, line = joined()
    later = Party("bob", "alice", boot=boot)
    second = net.connect(later, alice)
    net.pump()
    assert alice.talk.current is channel_of(alice, second)
    # Of one process, the connection left behind may be the newer one: it may greet again.
    assert channel_of(alice, line).state is (State.NEW if boot == 1 else State.CLOSED)
    assert later.talk.current is not None
    assert [type(e) for e in alice.events if isinstance(e, Greeted | LinkBroken)] == [
        Greeted,
        LinkBroken,
        Greeted,
    ]


def test_an_earlier_process_of_the_folder_is_told_that_it_lost_the_session() -> None:
    net, alice, bob, _ = joined()
    net.connect(Party("bob", "alice", boot=2), alice)
    net.pump()
    assert isinstance(bob.only(Failed).error, KeyInUse)


def test_a_fenced_connection_can_do_nothing_any_more() -> None:
    net, alice, bob, line = joined()
    session = channel_of(bob, line)
    net.connect(Party("bob", "alice", boot=2), alice)
    net.pump()
    stale = alice.talk.stale
    body, signature = signed_vote("bob", b"of the fenced one")
    session.state = State.OPEN
    net.say(line, bob, Vote(body, signature), round=1)
    net.inject(line, alice, *_hello(net))
    assert alice.talk.stale == stale + 2
    assert not alice.of(Voted)


def _hello(net: Net) -> tuple[bytes, bytes]:
    frame = net.of(Type.HELLO)[0]
    return frame.header.encode(), frame.body


@pytest.mark.parametrize("other", [{"folder": b"f" * 16}, {"folder": b"f" * 16, "boot": 9}])
def test_another_folder_with_the_same_key_is_refused_and_the_session_goes_on(
    other: dict[str, object],
) -> None:
    net, alice, bob, line = joined()
    usurper = Party("bob", "alice", **other)
    net.connect(usurper, alice)
    net.pump()
    assert isinstance(usurper.only(Failed).error, KeyInUse)
    assert alice.talk.current is channel_of(alice, line)
    assert not bob.of(Failed)
    assert not bob.of(LinkBroken)
    assert isinstance(alice.only(Noticed).error, KeyInUse)
    assert not alice.of(Failed)


def test_a_lower_boot_of_the_same_folder_is_refused() -> None:
    net = Net()
    alice, bob = Party("alice", "bob"), Party("bob", "alice", boot=5)
    net.connect(bob, alice)
    net.pump()
    restored = Party("bob", "alice", boot=4)
    net.connect(restored, alice)
    net.pump()
    assert isinstance(restored.only(Failed).error, KeyInUse)
    assert bob.talk.current is not None


def test_another_folder_is_welcome_once_the_old_connection_is_provably_gone() -> None:
    net, alice, _bob, line = joined()
    net.cut(line, unnoticed_by=alice)
    assert alice.talk.current is not None
    other = Party("bob", "alice", folder=b"f" * 16)
    net.connect(other, alice)
    net.pump()
    assert other.talk.current is not None
    assert not other.of(Failed)
    assert alice.of(Greeted)[-1].greeting.folder == b"f" * 16


def test_while_the_old_connection_has_no_room_the_newcomer_waits_and_checks_are_answered() -> None:
    net, alice, _bob, line = joined()
    line.full = True
    other = Party("bob", "alice", folder=b"f" * 16)
    net.connect(other, alice)
    checker = Party("bob", "alice", purpose="check")
    net.connect(checker, alice)
    net.pump()
    assert not other.of(Failed)
    assert other.talk.current is None
    assert checker.of(Greeted)
    line.full = False
    net.pump()
    assert isinstance(other.only(Failed).error, KeyInUse)


def test_a_connection_that_ends_while_a_newcomer_waits_makes_room_for_it() -> None:
    net, alice, _, line = joined()
    line.full = True
    other = Party("bob", "alice", folder=b"f" * 16)
    net.connect(other, alice)
    net.pump()
    net.cut(line)
    net.pump()
    assert other.talk.current is not None


def test_an_end_that_the_wire_cannot_place_is_found_out_by_sending() -> None:
    net, alice, _, line = joined()
    alice.talk.down(None, "somebody left")
    net.pump()
    assert alice.talk.current is not None
    line.alive = False
    alice.talk.down(None, "somebody left")
    net.take(alice)
    assert alice.talk.current is None
    assert alice.of(LinkBroken)


def test_connections_that_never_greet_are_forgotten_and_not_collected() -> None:
    net, alice, _bob, line = joined()
    for number in range(100):
        old = Header(Type.DATA, session=b"o" * 16, sequence=1).encode()
        alice.talk.received(_message(number.to_bytes(4, "big"), old), net.now)
    assert len(alice.talk.channels) <= 9
    assert alice.talk.current is channel_of(alice, line)


def _message(connection: bytes, header: bytes) -> Message:
    return Message("bob", connection, header, b"")
