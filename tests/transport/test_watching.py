"""What is held of each connection is known from outside, and who makes us hold too much is cut.

Here the test is libzmq: it reads a plain TCP connection and says what of it was whole.
"""

from __future__ import annotations

import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator

import pytest
import zmq

from splitfed.transport import watching
from splitfed.transport.sockets import WireOptions
from splitfed.transport.watching import LOOK_EVERY, UNFINISHED, Watch, came_over, unread_of

OPTIONS = WireOptions(high_water_mark=4)


class Street:
    """TCP connections to one port, a clock that is set by hand, and a watch over them."""

    def __init__(self, peer: str | None = None) -> None:
        self.now = 1000.0
        self.door = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.door.getsockname()[1]
        self.watch = Watch(
            lambda one: one.getsockname()[1] == self.port, OPTIONS, lambda: self.now, peer
        )
        self.open: list[socket.socket] = [self.door]

    def come(self) -> tuple[socket.socket, socket.socket]:
        """A new connection: their end and ours, which is watched."""
        theirs = socket.create_connection(("127.0.0.1", self.port), timeout=30)
        ours, _ = self.door.accept()
        self.open += [theirs, ours]
        self.watch.observe(zmq.EVENT_ACCEPTED, ours.fileno())
        return theirs, ours

    def carry(self, theirs: socket.socket, ours: socket.socket, size: int) -> None:
        """So many bytes come and are read, as libzmq does."""
        block = bytes(1 << 16)
        while size:
            part = block[: min(size, len(block))]
            theirs.sendall(part)
            size -= len(part)
            left = len(part)
            while left:
                left -= len(ours.recv(left))

    def look(self) -> list[watching.Excess]:
        self.now += LOOK_EVERY
        return self.watch.look()

    def close(self) -> None:
        for one in self.open:
            one.close()


Make = Callable[..., Street]


@pytest.fixture
def street() -> Iterator[Make]:
    made: list[Street] = []

    def make(peer: str | None = None) -> Street:
        made.append(Street(peer))
        return made[-1]

    yield make
    for one in made:
        one.close()


def is_cut(theirs: socket.socket) -> bool:
    """Whether the other end sees the end of the connection, now and not later."""
    theirs.setblocking(False)
    try:
        return theirs.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_bytes_that_came_are_counted_and_those_that_wait_in_the_kernel_told_apart(
    street: Make,
) -> None:
    s = street()
    theirs, ours = s.come()
    s.carry(theirs, ours, 100_000)
    theirs.sendall(bytes(5000))
    ours.recv(1, socket.MSG_PEEK)
    assert came_over(ours.fileno()) == 105_000
    assert unread_of(ours.fileno()) == 5000


def test_what_is_taken_whole_is_never_too_much(street: Make) -> None:
    s = street()
    theirs, ours = s.come()
    for _ in range(30):
        s.carry(theirs, ours, 1 << 20)
        s.watch.took(ours.fileno(), "bob", 1 << 20)
        s.watch.emptied()
        assert s.look() == []
    assert not is_cut(theirs)


def test_a_message_without_an_end_is_cut_and_named(street: Make) -> None:
    s = street()
    theirs, ours = s.come()
    s.carry(theirs, ours, 1000)
    s.watch.took(ours.fileno(), "bob", 1000)
    s.carry(theirs, ours, UNFINISHED + 10_000)
    s.watch.emptied()
    assert s.look() == []  # whether a whole message waits is not known yet
    s.watch.emptied()
    (excess,) = s.look()
    assert (excess.peer, excess.address) == ("bob", "127.0.0.1")
    assert UNFINISHED < excess.held <= UNFINISHED + 10_000
    assert is_cut(theirs)
    s.watch.observe(zmq.EVENT_DISCONNECTED, ours.fileno())
    assert s.watch.deadline == float("inf")


def test_whole_messages_that_wait_for_us_are_held_up_to_the_high_water_mark(street: Make) -> None:
    s = street()
    theirs, ours = s.come()
    s.watch.took(ours.fileno(), "bob", 0)
    assert (OPTIONS.high_water_mark + 2) << 20 <= s.watch.ceiling <= 8 << 20
    s.carry(theirs, ours, s.watch.ceiling)
    for _ in range(5):
        assert s.look() == []  # never told that nothing waits
    s.carry(theirs, ours, 10_000)
    (excess,) = s.look()
    assert excess.peer == "bob"
    assert is_cut(theirs)


def test_a_connection_without_a_word_holds_no_more_than_a_greeting(street: Make) -> None:
    s = street()
    theirs, ours = s.come()
    s.carry(theirs, ours, UNFINISHED)
    assert s.look() == []
    s.carry(theirs, ours, 10_000)
    (excess,) = s.look()
    assert excess.peer is None
    assert is_cut(theirs)


def test_many_connections_without_a_word_hold_no_more_together_than_one_peer(street: Make) -> None:
    s = street()
    each = UNFINISHED // 2
    ends = [s.come() for _ in range(2 + s.watch.ceiling // each)]
    for number, (theirs, ours) in enumerate(ends):
        s.carry(theirs, ours, each + 1000 * number)
    found = s.look()
    assert found
    assert is_cut(ends[-1][0])  # the largest
    assert not is_cut(ends[0][0])
    assert s.look() == []


def test_the_connections_of_one_peer_hold_no_more_together_than_twice_one(street: Make) -> None:
    s = street()
    ends = [s.come() for _ in range(3)]
    for theirs, ours in ends:
        s.watch.took(ours.fileno(), "bob", 0)
        s.carry(theirs, ours, s.watch.ceiling * 3 // 4)
    assert [excess.peer for excess in s.look()] == ["bob"]
    assert sum(is_cut(theirs) for theirs, _ in ends) == 1


def test_beats_of_a_year_are_no_excess(street: Make) -> None:
    s = street("alice")
    theirs, ours = s.come()
    beats = UNFINISHED // 82 + 10_000  # a PING of theirs and a PONG to ours
    s.carry(theirs, ours, 82 * beats)
    s.now += beats * OPTIONS.heartbeat_interval
    for _ in range(3):
        s.watch.emptied()
        assert s.look() == []


def test_the_oldest_connections_without_a_word_go_first_and_a_known_peer_stays(
    street: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_SILENT", 5)
    s = street()
    peer, ours = s.come()
    s.watch.took(ours.fileno(), "bob", 0)
    silent = [s.come()[0] for _ in range(8)]
    assert [is_cut(one) for one in silent] == [True] * 3 + [False] * 5
    assert not is_cut(peer)
    assert s.watch.crowded == 3


@pytest.mark.parametrize(("allowed", "most"), [(1 << 20, 256), (1024, 256), (64, 16), (8, 4)])
def test_where_few_descriptors_are_allowed_fewer_connections_may_stand(
    monkeypatch: pytest.MonkeyPatch, allowed: int, most: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    assert watching.silent_connections() == most


def test_a_descriptor_that_became_another_connection_is_left_alone(street: Make) -> None:
    s = street()
    theirs, ours = s.come()
    s.carry(theirs, ours, UNFINISHED + 10_000)
    number = ours.fileno()
    other, stranger = street().come()
    os.dup2(stranger.fileno(), number)  # libzmq closed it, and the number was used again
    assert s.look() == []
    s.watch.cut(number)
    assert not is_cut(other)


def test_a_descriptor_that_is_closed_by_now_is_left_alone(street: Make) -> None:
    s = street()
    _, ours = s.come()
    number = ours.fileno()
    ours.close()
    assert s.look() == []
    s.watch.cut(number)


def test_a_connection_of_another_port_and_a_file_are_left_alone(street: Make) -> None:
    s, elsewhere = street(), street()
    theirs, ours = elsewhere.come()
    s.watch.observe(zmq.EVENT_ACCEPTED, ours.fileno())
    with open(os.devnull) as file:
        s.watch.observe(zmq.EVENT_ACCEPTED, file.fileno())
        s.watch.cut(file.fileno())
    s.watch.cut(ours.fileno())
    assert not is_cut(theirs)


def test_a_connection_that_ended_before_it_was_looked_at_is_left_alone(street: Make) -> None:
    s = street()

    def ended(_: socket.socket) -> bool:
        raise OSError("Transport endpoint is not connected")

    watch = Watch(ended, OPTIONS, lambda: s.now)
    theirs, ours = s.come()
    watch.observe(zmq.EVENT_CONNECTED, ours.fileno())
    watch.cut(ours.fileno())
    assert not is_cut(theirs)


def test_where_the_system_does_not_count_nothing_is_cut_but_the_crowd(
    street: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "MOST_SILENT", 4)
    monkeypatch.setattr(sys, "platform", "darwin")
    s = street()
    theirs, ours = s.come()
    s.carry(theirs, ours, UNFINISHED + 10_000)
    assert s.look() == []
    for _ in range(4):
        assert not is_cut(theirs)
        s.come()
    assert is_cut(theirs)


def test_where_messages_cannot_be_told_apart_nothing_is_cut(street: Make) -> None:
    s = street()
    theirs, ours = s.come()
    s.watch.took(None, "bob", 100)
    s.carry(theirs, ours, UNFINISHED + 10_000)
    assert s.look() == []
    assert not is_cut(theirs)
