"""Taking leave: a goodbye is read, or said again."""

from __future__ import annotations

from splitfed.errors import LinkDown, PeerUnreachable
from splitfed.transport.events import (
    Failed,
    Greeted,
    Left,
    Noticed,
)
from splitfed.transport.frames import Type
from tests.support.talk import Party, joined


def test_a_goodbye_is_acknowledged_and_only_then_settled() -> None:
    net, alice, bob, _ = joined()
    bob.talk.goodbye("finished", 10)
    assert not bob.talk.settled
    net.take(bob)
    assert not bob.talk.settled
    net.pump()
    assert bob.talk.settled
    left = alice.only(Left)
    assert (left.reason, left.closed) == ("finished", 10)
    assert alice.talk.view.state == "left"
    assert not bob.of(Left)


def test_goodbyes_may_cross() -> None:
    net, alice, bob, _ = joined()
    bob.talk.goodbye("finished", 10)
    alice.talk.goodbye("finished", 10)
    net.pump()
    assert alice.only(Left)
    assert bob.only(Left)
    assert alice.talk.settled
    assert bob.talk.settled


def test_a_goodbye_that_a_break_swallowed_is_said_again() -> None:
    net, alice, bob, line = joined()
    net.lose = lambda frame: frame.type is Type.GOODBYE
    bob.talk.goodbye("interrupted", 3)
    net.pump()
    net.lose = lambda frame: False
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert alice.only(Left).reason == "interrupted"


def test_a_goodbye_that_was_read_is_said_again_in_a_new_session() -> None:
    """A new session means that a party is back: the peer takes back that it left."""
    net, alice, bob, line = joined()
    bob.talk.goodbye("finished", 3)
    net.pump()
    net.cut(line)
    assert bob.talk.settled  # whoever was heard owes nobody a new connection
    net.connect(bob, alice)
    assert not bob.talk.settled
    net.pump()
    assert [event.closed for event in alice.of(Left)] == [3, 3]
    assert alice.talk.view.state == "left"
    assert bob.talk.settled


def test_a_last_word_that_a_break_swallowed_keeps_the_link_open_for_a_new_connection() -> None:
    net, alice, bob, line = joined()
    net.lose = lambda frame: frame.type is Type.GOODBYE
    bob.talk.goodbye("finished", 3)
    net.pump()
    net.cut(line)
    assert not bob.talk.settled
    net.lose = lambda frame: False
    net.connect(bob, alice)
    net.pump()
    assert bob.talk.settled
    assert alice.only(Left).closed == 3


def test_nobody_waits_to_take_leave_of_a_peer_that_was_never_there() -> None:
    party = Party("bob", "alice")
    party.talk.goodbye("finished", 3)
    assert party.talk.settled


def test_whoever_left_may_come_back() -> None:
    net, alice, bob, line = joined()
    bob.talk.goodbye("interrupted", 3)
    net.pump()
    net.cut(line)
    net.connect(Party("bob", "alice", boot=2), alice)
    net.pump()
    assert alice.talk.view.state == "connected"
    assert len(alice.of(Greeted)) == 2


def test_a_peer_that_failed_us_is_told_so_and_waits() -> None:
    net, alice, _bob, line = joined()
    alice.talk.fail(PeerUnreachable("patience ended"), tell=False)
    net.cut(line)
    again = Party("bob", "alice", boot=2)
    net.connect(again, alice)
    net.pump()
    error = again.only(Noticed).error
    assert isinstance(error, LinkDown)
    assert "patience ended" in error.message
    assert not again.of(Failed)
