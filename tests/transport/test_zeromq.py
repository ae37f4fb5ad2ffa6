"""The ZeroMQ wire: messages, connections, counted bytes, and what a peer may not do."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import zmq

from splitfed.errors import ProtocolViolation
from splitfed.transport import zmtp
from splitfed.transport.keys import make_secret
from splitfed.transport.wire import Sent
from splitfed.transport.zeromq import ZmqWire
from tests.support.proxy import Proxy
from tests.support.wires import HEADER, NO_BEATS, QUICK, Bench, Joined, keys_of, port_of, secret_of

RawDealer = Callable[..., Any]


@pytest.fixture
def raw_dealer() -> Iterator[RawDealer]:
    """Makes DEALERs with a party's own key that need not keep to the protocol."""
    with zmq.Context() as context:
        dealers = []

        def make(alice: ZmqWire, name: str, **options: Any) -> Any:
            dealer = context.socket(zmq.DEALER)
            dealers.append(dealer)
            secret = secret_of(name)
            dealer.curve_publickey = secret.curve_public.encode()
            dealer.curve_secretkey = secret.curve_secret.encode()
            dealer.curve_serverkey = secret_of("alice").curve_public.encode()
            for option, value in options.items():
                setattr(dealer, option, value)
            dealer.connect(alice.endpoint)
            return dealer

        yield make
        for dealer in dealers:
            dealer.close(0)


HERE = "tcp://127.0.0.1:5555"
SIZES = (0, 1, 188, 189, 190, 221, 222, 223, 65_535, 65_536, (1 << 20) - 1, 1 << 20)


def test_messages_of_every_size_arrive_whole_in_order_and_by_the_authenticated_name(
    joined: Joined,
) -> None:
    b, alice, bob, at_alice, at_bob, _ = joined
    bodies = [os.urandom(size) for size in SIZES]
    for body in bodies:
        b.send(bob, "alice", at_bob, body)
        b.send(alice, "bob", at_alice, memoryview(body))
    b.run(lambda: len(b.messages(alice)) > len(SIZES) and len(b.messages(bob)) >= len(SIZES))
    received = b.messages(alice)[1:]
    assert [bytes(message.body) for message in received] == bodies
    assert {(m.peer, m.connection, m.header) for m in received} == {("bob", at_alice, HEADER)}
    assert [bytes(message.body) for message in b.messages(bob)] == bodies
    assert {(m.peer, m.connection) for m in b.messages(bob)} == {("alice", at_bob)}


def test_wire_bytes_are_counted_to_the_byte(b: Bench) -> None:
    alice = b.alice(options=NO_BEATS)
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address, options=NO_BEATS)
        at_alice, at_bob = b.connect(alice, bob)
        for size in SIZES:
            b.send(bob, "alice", at_bob, bytes(size))
            b.send(alice, "bob", at_alice, bytes(size + 1))
        b.run(lambda: len(b.messages(alice)) > len(SIZES) and len(b.messages(bob)) >= len(SIZES))
        proxy.wait(lambda p: p.passed == {"up": bob.bytes_sent, "down": alice.bytes_sent})
    assert (alice.bytes_received, bob.bytes_received) == (bob.bytes_sent, alice.bytes_sent)


def test_the_bytes_of_a_refusal_are_counted_too(b: Bench) -> None:
    alice = b.alice(bob=make_secret())
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address, options=replace(QUICK, retry_grace=30.0))
        b.run(lambda: bool(b.troubles(bob)) and bool(b.troubles(alice)))
        proxy.wait(lambda p: p.connections == 0)
        assert proxy.passed == {"up": bob.bytes_sent, "down": alice.bytes_sent}
        assert proxy.passed == {"up": alice.bytes_received, "down": bob.bytes_received}


def test_a_handshake_costs_less_than_a_kibibyte() -> None:
    assert zmtp.DIALER_HANDSHAKE_BYTES + zmtp.LISTENER_HANDSHAKE_BYTES < 1024


def test_a_full_queue_is_busy_and_nothing_is_lost_or_sent_twice(b: Bench) -> None:
    options = replace(QUICK, high_water_mark=4)
    alice = b.alice(options=options)
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address, options=options)
        at_alice, at_bob = b.connect(alice, bob)
        proxy.black_hole()
        counts = {}
        for wire, peer, connection in ((bob, "alice", at_bob), (alice, "bob", at_alice)):
            sent = 0
            while wire.send(peer, connection, HEADER, sent.to_bytes(4) * 65536) is Sent.SENT:
                sent += 1
                assert sent < 1000
            counts[wire] = sent
        proxy.heal()
        b.run(
            lambda: (
                len(b.messages(alice)) == counts[bob] + 1 and len(b.messages(bob)) == counts[alice]
            )
        )
        numbers = [int.from_bytes(message.body[:4]) for message in b.messages(alice)[1:]]
        assert numbers == list(range(counts[bob]))
        assert b.messages(bob)[-1].body[:4] == (counts[alice] - 1).to_bytes(4)
        assert bob.send("alice", at_bob, HEADER, b"room again") is Sent.SENT


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """What each wait of a wire ended with; an empty list: its time was up."""
    seen: list[list[Any]] = []
    poll = zmq.Poller.poll

    def watched(self: zmq.Poller, timeout: Any = None) -> list[Any]:
        seen.append(poll(self, timeout))
        return seen[-1]

    monkeypatch.setattr(zmq.Poller, "poll", watched)
    return seen


@pytest.mark.parametrize("name", ["alice", "bob"])
def test_with_nothing_to_do_a_wire_sleeps(
    joined: Joined, ready: list[list[Any]], name: str
) -> None:
    wire = joined.alice if name == "alice" else joined.bob
    ours, theirs = socket.socketpair()

    def slept() -> bool:
        ready.clear()
        wire.poll(ours.fileno(), 0.05)
        return ready == [[]]

    with ours, theirs:
        joined.bench.run(slept)
    assert ready == [[]]


@pytest.mark.parametrize("sender", ["alice", "bob"])
def test_waiting_for_room_sleeps_and_is_woken_by_room(
    b: Bench, ready: list[list[Any]], sender: str
) -> None:
    options = replace(QUICK, high_water_mark=2)
    alice = b.alice(options=options)
    ours, theirs = socket.socketpair()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy, ours, theirs:
        bob = b.bob(proxy.address, options=options)
        at_alice, at_bob = b.connect(alice, bob)
        wire, peer, connection = (
            (alice, "bob", at_alice) if sender == "alice" else (bob, "alice", at_bob)
        )
        proxy.black_hole()

        def slept() -> bool:
            # Until the operating system's buffers are full as well, room comes by itself.
            while wire.send(peer, connection, HEADER, bytes(1 << 20)) is Sent.SENT:
                pass
            ready.clear()
            wire.poll(ours.fileno(), 0.05)
            return ready == [[]]

        b.run(slept)
        proxy.heal()
        ready.clear()
        assert wire.poll(ours.fileno(), 30.0) == []
        assert [flags for _, flags in ready[-1]] == [zmq.POLLOUT]


def test_a_readable_wake_descriptor_ends_the_wait(b: Bench) -> None:
    alice = b.alice()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"\0")
        assert alice.poll(ours.fileno(), 3600.0) == []


def test_the_listener_learns_that_a_connection_ended_without_sending(joined: Joined) -> None:
    b, alice, bob, at_alice, _, _ = joined
    b.close(bob)
    b.run(lambda: bool(b.downs(alice)))
    assert [(down.peer, down.connection) for down in b.downs(alice)] == [("bob", at_alice)]
    assert alice.send("bob", at_alice, HEADER, b"") is Sent.GONE


def test_each_side_is_told_of_the_end_of_each_connection_once(joined: Joined) -> None:
    b, alice, bob, at_alice, at_bob, proxy = joined
    ended = {alice: [at_alice], bob: [at_bob]}
    for _ in range(3):
        proxy.reset()
        again_alice, again_bob = b.connect(alice, bob)
        ended[alice].append(again_alice)
        ended[bob].append(again_bob)
    b.run(lambda: len(b.downs(alice)) >= 3 and len(b.downs(bob)) >= 3)
    for wire in (alice, bob):
        assert [down.connection for down in b.downs(wire)] == ended[wire][:-1]
        assert len(set(ended[wire])) == 4


def test_an_earlier_connection_is_gone_for_ever(joined: Joined) -> None:
    b, alice, bob, at_alice, at_bob, proxy = joined
    proxy.reset()
    b.connect(alice, bob)
    b.run(lambda: bool(b.downs(alice)))
    assert bob.send("alice", at_bob, HEADER, b"") is Sent.GONE
    assert alice.send("bob", at_alice, HEADER, b"") is Sent.GONE


def test_a_connection_of_one_peer_is_not_one_of_another(joined: Joined) -> None:
    _, alice, _, at_alice, _, _ = joined
    assert alice.send("alice", at_alice, HEADER, b"") is Sent.GONE
    assert alice.send("nobody", at_alice, HEADER, b"") is Sent.GONE


def test_what_was_queued_for_a_broken_connection_is_not_sent_on_the_next(joined: Joined) -> None:
    b, alice, bob, _, at_bob, proxy = joined
    proxy.black_hole()
    for number in range(8):
        b.send(bob, "alice", at_bob, bytes([number]) * (1 << 20))
    proxy.reset()
    proxy.heal()
    at_alice, _ = b.connect(alice, bob)
    assert [bytes(m.body) for m in b.messages(alice) if m.connection == at_alice] == [b"hello"]


def test_rebuild_dials_anew_and_reports_the_old_connection_down(joined: Joined) -> None:
    b, alice, bob, at_alice, at_bob, _ = joined
    bob.rebuild("alice")
    assert bob.send("alice", at_bob, HEADER, b"") is Sent.GONE
    again_alice, again_bob = b.connect(alice, bob)
    assert [down.connection for down in b.downs(bob)] == [at_bob]
    assert again_bob != at_bob
    assert again_alice != at_alice


def test_rebuild_does_nothing_where_the_peer_dials_us(joined: Joined) -> None:
    b, alice, bob, at_alice, _, _ = joined
    alice.rebuild("bob")
    b.send(alice, "bob", at_alice, b"still here")
    b.run(lambda: bool(b.messages(bob)))
    assert not b.downs(alice)


def test_an_own_second_process_may_ask_the_own_run(b: Bench) -> None:
    alice = b.alice()
    roster = {"alice": keys_of("alice", HERE), "bob": keys_of("bob")}
    asking = b.wire("alice", roster, dial={"alice": str(alice.endpoint)})
    b.run(lambda: bool(b.ups(asking)))
    assert asking.endpoint is None
    assert asking.send("alice", b.ups(asking)[0].connection, HEADER, b"?") is Sent.SENT
    b.run(lambda: bool(b.messages(alice)))
    assert b.messages(alice)[0].peer == "alice"


# --- what a peer may not do ---------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [[HEADER], [HEADER, b"", b""], [b"", HEADER], [HEADER[:-1], b""], [HEADER + b"\0", b""],
     [HEADER] * 5000],
    ids=["one part", "three parts", "no header", "short header", "long header", "thousands"],
)  # fmt: skip
def test_a_message_that_is_no_header_and_body_is_a_violation_of_its_sender(
    b: Bench, raw_dealer: RawDealer, parts: list[bytes]
) -> None:
    alice = b.alice()
    dealer = raw_dealer(alice, "bob")
    dealer.send_multipart(parts)
    b.run(lambda: bool(b.troubles(alice)))
    (trouble,) = b.troubles(alice)
    assert trouble.peer == "bob"
    assert trouble.fatal
    assert isinstance(trouble.error, ProtocolViolation)
    assert f"{len(parts)} parts" in str(trouble.error)
    assert not b.messages(alice)
    dealer.send_multipart([HEADER, b"next"])
    b.run(lambda: bool(b.messages(alice)))
    assert bytes(b.messages(alice)[0].body) == b"next"


def test_a_chosen_routing_id_is_a_violation(b: Bench, raw_dealer: RawDealer) -> None:
    alice = b.alice()
    raw_dealer(alice, "bob", routing_id=b"bob").send_multipart([HEADER, b""])
    b.run(lambda: bool(b.troubles(alice)))
    assert "routing id" in str(b.troubles(alice)[0].error)
    assert not b.messages(alice)


def test_endless_parts_are_skipped_in_turns_and_not_kept(b: Bench, raw_dealer: RawDealer) -> None:
    alice = b.alice()
    b.connect(alice, b.bob(str(alice.endpoint)))
    dealer = raw_dealer(alice, "bob")
    dealer.send_multipart([bytes(1000)] * 3000)
    b.run(lambda: bool(b.troubles(alice)))
    assert "3000 parts of 1000, 1000, …" in str(b.troubles(alice)[0].error)
