"""Sessions that only one side still believes in: none of them stays for ever.

The carrier says of such a connection that it lives, and answers its heartbeats. What ends it
must therefore come from the conversation itself.
"""

from __future__ import annotations

from splitfed.errors import PeerStalled
from splitfed.transport.events import Arrived, Failed, Noticed, Voted
from splitfed.transport.frames import Type
from tests.support.talk import SETTINGS, Line, Net, Party, joined, outgoing, signed_vote


def two_greetings_in_the_wrong_order() -> tuple[Net, Party, Party, Line]:
    """Alice reads the HELLO of Bob's second connection before that of his first.

    A ROUTER reads its connections in turn, and when one is empty the last takes its place: of
    two that came while nobody read, the newer one can be read first.
    """
    net = Net()
    alice, bob = Party("alice", "bob"), Party("bob", "alice")
    first = net.connect(bob, alice)
    net.take(bob)
    second = net.connect(bob, alice)
    net.take(bob)
    for line in (second, first):
        assert net.deliver(line, alice)
    while net.take(alice):  # both WELCOMEs; the one on the first connection reaches nobody
        pass
    assert net.deliver(second, bob)
    assert bob.talk.current is not None
    alice.talk.down(first.name, "the connection ended")
    return net, alice, bob, second


def test_greetings_read_in_the_wrong_order_cost_one_more_greeting_and_no_round() -> None:
    net, alice, bob, _ = two_greetings_in_the_wrong_order()
    assert alice.talk.current is None  # while Bob thinks that he is in session
    body, signature = signed_vote("bob", b"agreed")
    bob.talk.vote(1, body, signature)
    bob.talk.offer(outgoing("bob"))
    net.pump()
    assert alice.talk.current is not None
    assert alice.only(Voted).body == body
    assert alice.only(Arrived)
    assert not alice.of(Failed)
    assert not bob.of(Failed)


def test_a_peer_that_answers_nothing_in_session_is_dialed_anew() -> None:
    net, alice, bob, line = joined()
    net.lose = lambda frame: frame.sender == "alice"
    net.tick(SETTINGS.stall - 1.0)
    assert bob.talk.current is not None
    net.tick(2.0)
    assert isinstance(bob.only(Noticed).error, PeerStalled)
    assert bob.talk.wants_rebuild
    net.lose = lambda frame: False
    net.cut(line)
    net.connect(bob, alice)
    net.pump()
    assert bob.talk.current is not None


def test_a_dialler_that_says_nothing_in_session_is_asked_to_greet_again() -> None:
    net, alice, bob, _ = joined()
    net.lose = lambda frame: frame.sender == "bob"
    for _ in range(6):  # Bob hears Alice meanwhile
        assert not alice.of(Noticed)
        net.tick(SETTINGS.status_interval)
    assert isinstance(alice.only(Noticed).error, PeerStalled)
    assert net.of(Type.RESET, "alice")
    net.lose = lambda frame: False
    net.pump()
    net.tick(SETTINGS.status_interval)
    assert alice.talk.current is not None
    assert bob.talk.current is not None


def test_an_idle_session_lives_on_its_status_alone() -> None:
    net, alice, bob, _ = joined()
    for _ in range(60):
        net.tick(SETTINGS.status_interval)
    assert not alice.of(Noticed)
    assert not bob.of(Noticed)
    assert len(net.of(Type.HELLO)) == 1
