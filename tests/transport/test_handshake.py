"""Sessions: how they begin, and what belongs to none."""

from __future__ import annotations

from splitfed.errors import LinkDown
from splitfed.transport.events import (
    Failed,
    Greeted,
    Left,
    LinkBroken,
    Noticed,
    Voted,
)
from splitfed.transport.frames import NO_SESSION, Header, Type
from tests.support.talk import Net, Party, channel_of, greeting, joined, signed_vote


def test_the_dialer_greets_first_and_both_sides_are_greeted_once() -> None:
    net, alice, bob, _ = joined()
    assert net.types()[:2] == [Type.HELLO, Type.WELCOME]
    assert alice.only(Greeted).greeting == greeting("bob")
    assert bob.only(Greeted).greeting == greeting("alice")


def test_every_handshake_is_followed_by_a_hello_and_a_session_of_another_name() -> None:
    net, alice, bob, line = joined()
    first = channel_of(alice, line).session
    net.cut(line)
    second = net.connect(bob, alice)
    net.pump()
    assert len(net.of(Type.HELLO)) == 2
    assert channel_of(alice, second).session == channel_of(bob, second).session
    assert channel_of(alice, second).session not in (first, NO_SESSION)
    assert (alice.talk.reconnects, bob.talk.reconnects) == (1, 1)
    assert len(alice.of(LinkBroken)) == len(bob.of(LinkBroken)) == 1


def test_documents_stay_at_home_while_nothing_differs() -> None:
    net, *_ = joined(contract_document='{"a": 1}', roster_document='{"b": 2}')
    for frame in net.passed:
        if frame.type in (Type.HELLO, Type.WELCOME):
            assert frame.content.greeting.contract_document == ""
            assert frame.content.greeting.roster_document == ""


def test_what_comes_before_hello_is_stale_and_answered_by_one_reset() -> None:
    net = Net()
    alice, bob = Party("alice", "bob"), Party("bob", "alice")
    line = net.connect(bob, alice)
    old = Header(Type.DATA, session=b"o" * 16, sequence=4, length=3)
    for _ in range(3):
        net.inject(line, alice, old.encode(), b"old")
    assert alice.talk.stale == 3
    while net.take(alice):
        pass
    assert [(f.type, f.header.session) for f in net.passed] == [(Type.RESET, b"o" * 16)]
    net.pump()
    assert alice.talk.current is not None
    assert bob.talk.current is not None
    assert len(net.of(Type.HELLO)) == 1


def test_a_dialer_whose_session_was_forgotten_greets_again() -> None:
    net, alice, bob, line = joined()
    alice.talk.greet_again(channel_of(alice, line), net.now)
    net.tick(10.0)
    assert net.types().count(Type.RESET) == 1
    assert net.types().count(Type.HELLO) == 2
    assert alice.talk.current is not None
    assert bob.talk.current is not None


def test_a_reset_of_an_earlier_session_is_stale() -> None:
    net, _, bob, line = joined()
    net.inject(line, bob, Header(Type.RESET, session=b"o" * 16, length=2).encode(), b"\x91\x03")
    assert bob.talk.stale == 1
    assert bob.talk.current is not None
    assert len(net.of(Type.HELLO)) == 1


def test_a_welcome_that_answers_an_earlier_hello_is_stale() -> None:
    net, alice, bob, line = joined()
    old = net.of(Type.WELCOME)[0]
    net.cut(line)
    again = net.connect(bob, alice)
    net.inject(again, bob, old.header.encode(), old.body)
    assert bob.talk.stale == 1
    net.pump()
    assert bob.talk.current is not None


def test_messages_of_a_connection_that_the_dialer_gave_up_are_stale() -> None:
    net, _alice, bob, line = joined()
    net.cut(line)
    old = net.of(Type.WELCOME)[0]
    net.inject(line, bob, old.header.encode(), old.body)
    assert bob.talk.stale == 1
    assert not bob.of(Failed)
    assert line.name not in bob.talk.channels


def test_a_lost_message_shows_by_its_number_and_a_new_session_mends_it() -> None:
    net, alice, bob, _ = joined()
    net.lose = lambda frame: frame.type is Type.VOTE
    bob.talk.vote(1, *signed_vote("bob", b"lost at first"))
    net.pump()
    assert not alice.of(Voted)
    net.lose = lambda frame: False
    net.tick(10.0)  # the next STATUS has a number too many
    assert alice.only(Voted).body == b"lost at first"
    assert alice.talk.reconnects == 1


def test_a_lost_message_to_the_dialer_is_mended_as_well() -> None:
    net, alice, bob, _ = joined()
    net.lose = lambda frame: frame.type is Type.VOTE
    alice.talk.vote(1, *signed_vote("alice", b"lost at first"))
    net.pump()
    net.lose = lambda frame: False
    net.tick(10.0)
    assert bob.only(Voted).body == b"lost at first"


def test_a_repeated_message_is_dropped() -> None:
    net, alice, bob, line = joined()
    bob.talk.goodbye("interrupted", 1)
    net.pump()
    said = net.of(Type.GOODBYE, "bob")[0]
    net.inject(line, alice, said.header.encode(), said.body)
    assert len(alice.of(Left)) == 1
    assert alice.talk.stale == 1


def test_an_unanswered_hello_is_repeated_and_then_the_connection_is_made_anew() -> None:
    net = Net()
    alice, bob = Party("alice", "bob"), Party("bob", "alice")
    net.lose = lambda frame: True
    net.connect(bob, alice)
    net.pump()
    net.tick(9.9)
    assert len(net.of(Type.HELLO)) == 1
    net.tick(0.1)
    net.tick(10.0)
    assert len(net.of(Type.HELLO)) == 3
    assert not bob.talk.wants_rebuild
    net.tick(10.0)
    assert bob.talk.wants_rebuild
    assert isinstance(bob.only(Noticed).error, LinkDown)
