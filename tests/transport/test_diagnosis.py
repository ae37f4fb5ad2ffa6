"""What a dialling socket's events and a look at the address mean, without a wire."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import zmq

from splitfed.errors import LinkDown, PeerRefusedUs, PeerUnreachable
from splitfed.transport.diagnosis import Act, Diagnosis, DialWatch
from splitfed.transport.probe import Answer, Probe
from splitfed.transport.zmtp import greeting
from tests.support.services import service
from tests.support.wires import QUICK

# --- the watch alone, without a socket -------------------------------------------------------

DELAYED, CONNECTED, RETRIED, DISCONNECTED, SUCCEEDED, REFUSED = (
    zmq.EVENT_CONNECT_DELAYED,
    zmq.EVENT_CONNECTED,
    zmq.EVENT_CONNECT_RETRIED,
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_HANDSHAKE_SUCCEEDED,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


class Watched:
    """A watch, a clock, and what came out."""

    def __init__(self) -> None:
        self.now = 100.0
        self.watch = DialWatch("alice", "tcp://a:1", "bob", QUICK)
        self.watch.dialed()

    def feed(self, *events: int, value: int = 0) -> list[Act | type]:
        out: list[Act | type] = []
        for event in events:
            for action in self.watch.observe(event, value, self.now):
                out.append(type(action.error) if isinstance(action, Diagnosis) else action)
        return out


def test_a_handshake_is_up_and_its_end_is_down_and_dialled_anew() -> None:
    watched = Watched()
    assert watched.feed(CONNECTED, SUCCEEDED) == [Act.UP]
    assert watched.feed(DISCONNECTED) == [Act.DOWN, Act.REDIAL]


def test_libzmq_is_left_to_retry_and_replaced_when_it_does_not() -> None:
    watched = Watched()
    watched.feed(CONNECTED, DISCONNECTED)
    assert watched.watch.deadline == pytest.approx(100.0 + QUICK.retry_grace)
    assert not watched.watch.overdue(watched.now)
    assert watched.watch.overdue(watched.now + QUICK.retry_grace)
    watched.feed(RETRIED)
    assert watched.watch.deadline is None


def test_a_handshake_that_never_ends_is_overdue() -> None:
    watched = Watched()
    watched.feed(CONNECTED)
    limit = QUICK.handshake_interval + QUICK.retry_grace
    assert not watched.watch.overdue(watched.now + limit - 0.001)
    assert watched.watch.overdue(watched.now + limit)
    watched.feed(SUCCEEDED)
    assert not watched.watch.overdue(watched.now + 1000)


def test_only_a_failed_connection_is_an_unreachable_peer() -> None:
    watched = Watched()
    assert watched.feed(DELAYED, CONNECTED, DISCONNECTED, RETRIED) == []
    assert watched.feed(DELAYED, RETRIED) == [PeerUnreachable]


@pytest.mark.parametrize(
    ("events", "waited", "why"),
    [
        ([DELAYED], 0.01, "nobody listens there"),
        ([DELAYED], QUICK.connect_timeout, "firewall"),
        ([], 0.01, "name cannot be resolved"),
    ],
)
def test_why_there_is_no_connection_is_told_apart(
    events: list[int], waited: float, why: str
) -> None:
    watched = Watched()
    for _ in range(2):
        watched.feed(*events)
        watched.now += waited
        (found,) = watched.watch.observe(RETRIED, 0, watched.now)
        assert isinstance(found, Diagnosis)
        assert why in found.error.message


def test_somebody_is_looked_for_after_three_broken_off_handshakes_in_a_row() -> None:
    watched = Watched()
    once = (CONNECTED, DISCONNECTED, RETRIED)
    assert watched.feed(*once, *once) == []
    assert watched.feed(*once) == [Act.PROBE]
    assert watched.feed(*once, *once) == []
    assert watched.feed(*once) == [Act.PROBE]


def test_a_handshake_that_ran_out_of_time_says_nothing_about_keys() -> None:
    watched = Watched()
    for _ in range(10):
        watched.feed(CONNECTED)
        watched.now += QUICK.handshake_interval
        assert watched.feed(DISCONNECTED, RETRIED) == [PeerUnreachable]


def test_a_refusal_is_fatal_and_a_failure_to_check_is_not() -> None:
    watched = Watched()
    (refused,) = watched.watch.observe(REFUSED, 400, 0.0)
    (failed,) = watched.watch.observe(REFUSED, 500, 0.0)
    assert isinstance(refused, Diagnosis)
    assert isinstance(failed, Diagnosis)
    assert (type(refused.error), refused.fatal) == (PeerRefusedUs, True)
    assert (type(failed.error), failed.fatal) == (LinkDown, False)


def test_a_key_that_once_matched_is_not_called_wrong_for_good() -> None:
    watched = Watched()
    watched.watch.found(Answer.CURVE)
    assert watched.watch.found(Answer.CURVE).fatal
    watched.feed(CONNECTED, SUCCEEDED)
    for _ in range(3):
        assert not watched.watch.found(Answer.CURVE).fatal
    assert not watched.watch.found(Answer.OTHER).fatal


def test_a_few_handshakes_broken_off_by_a_bad_line_are_no_wrong_key() -> None:
    watched = Watched()
    for answer in (Answer.CURVE, Answer.CLOSED, Answer.CURVE):
        assert not watched.watch.found(answer).fatal
    # The next one that is broken off makes us look again, not the third.
    assert watched.feed(CONNECTED, DISCONNECTED) == [Act.PROBE]
    assert watched.watch.found(Answer.CURVE).fatal


@pytest.mark.parametrize("answer", [Answer.CLOSED, Answer.SILENT, Answer.REFUSED])
def test_who_does_not_answer_is_unreachable(answer: Answer) -> None:
    found = Watched().watch.found(answer)
    assert isinstance(found.error, PeerUnreachable)
    assert not found.fatal


# --- the probe alone ------------------------------------------------------------------------


def probe(answer: Callable[[socket.socket], None]) -> Answer:
    with service(answer) as address:
        look = Probe("127.0.0.1", int(address.rsplit(":", 1)[1]), deadline=1.0)
        while (found := look.step(0.0)) is None:
            waits = look.waits_for
            assert waits is not None
            descriptor, writing = waits
            assert zmq.select([] if writing else [descriptor], [descriptor] * writing, [], 10) != (
                [],
                [],
                [],
            )
    assert look.waits_for is None
    return found


def sends(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(data)
        while connection.recv(100):
            pass

    return answer


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (greeting(), Answer.CURVE),
        (greeting()[:32] + b"\1" + greeting()[33:], Answer.CURVE),
        (greeting().replace(b"CURVE", b"NULL\0"), Answer.OTHER),
        (b"HTTP/1.1 400 Bad Request".ljust(64), Answer.OTHER),
    ],
)
def test_who_answers_is_told_by_the_greeting(data: bytes, found: Answer) -> None:
    assert probe(sends(data)) is found


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"", Answer.CLOSED), (greeting()[:11], Answer.OTHER), (b"SSH", Answer.OTHER)],
)
def test_who_closes_without_a_word_is_a_forwarder_and_anyone_else_another_service(
    data: bytes, found: Answer
) -> None:
    assert probe(lambda connection: connection.sendall(data)) is found


def test_a_probe_of_a_closed_port_or_an_unknown_name_is_refused() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        look = Probe("127.0.0.1", reserved.getsockname()[1], deadline=1.0)
        descriptor, _ = look.waits_for or (-1, True)
        if descriptor != -1:
            zmq.select([], [descriptor], [], 10)
        assert look.step(0.0) is Answer.REFUSED


def test_a_probe_without_an_answer_ends_at_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        look = Probe("127.0.0.1", server.getsockname()[1], deadline=5.0)
        look.step(0.0)
        assert look.step(4.9) is None
        assert look.step(5.0) is Answer.SILENT
        assert look.waits_for is None
