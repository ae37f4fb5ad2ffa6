"""The ZeroMQ wire: roles, messages, counted bytes, options, and what it refuses."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from splitfed.errors import Defect, ProtocolViolation, UserError
from splitfed.transport import zmtp
from splitfed.transport.keys import Identity, PeerKeys, make_secret
from splitfed.transport.sockets import WireOptions
from splitfed.transport.wire import Sent
from splitfed.transport.zeromq import ZmqWire, parse_address
from tests.support.proxy import Proxy
from tests.support.wires import HEADER, QUICK, Bench, bench, keys_of, port_of, secret_of


@pytest.fixture
def b() -> Iterator[Bench]:
    with bench() as one:
        yield one


def identity(name: str) -> Identity:
    return Identity(name=name, secret=secret_of(name))


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


# --- roles ------------------------------------------------------------------------------


def roles(name: str, **addresses: str | None) -> tuple[set[str], set[str]]:
    """Whom ``name`` expects to dial it, and whom it dials."""
    roster = {other: keys_of(other, address) for other, address in addresses.items()}
    wire = ZmqWire(identity(name), roster)
    return set(wire.expected), set(wire.dialed)


HERE = "tcp://127.0.0.1:5555"


def test_the_party_with_an_address_listens() -> None:
    assert roles("bob", alice=None, bob=HERE) == ({"alice"}, set())
    assert roles("alice", alice=None, bob=HERE) == (set(), {"bob"})


def test_where_both_have_an_address_the_name_that_sorts_first_listens() -> None:
    assert roles("alice", alice=HERE, bob=HERE) == ({"bob"}, set())
    assert roles("bob", alice=HERE, bob=HERE) == (set(), {"alice"})


def test_each_pair_decides_for_itself() -> None:
    assert roles("bob", alice=HERE, bob=HERE, carol=HERE, dave=None) == (
        {"carol", "dave"},
        {"alice"},
    )


def test_two_parties_without_an_address_are_refused_by_name() -> None:
    with pytest.raises(UserError, match="neither alice nor bob has an address") as error:
        roles("alice", alice=None, bob=None)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:5", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://a b:5", "ipc://x",
     "tcp://host:5/path", "tcp://host:port", "tcp://::1:5", "inproc://x:5", "tcp://h:5;x:6"],
)  # fmt: skip
def test_what_is_no_tcp_address_is_refused(address: str) -> None:
    with pytest.raises(UserError, match="tcp://HOST:PORT"):
        parse_address(address)


def test_host_and_port_of_an_address() -> None:
    assert parse_address("tcp://fl.example.org:5555") == ("fl.example.org", 5555)
    assert parse_address("tcp://[2001:db8::1]:80") == ("2001:db8::1", 80)
    assert parse_address("tcp://*:0", listening=True) == ("*", 0)


def test_a_party_outside_the_roster_is_refused() -> None:
    with pytest.raises(UserError, match="carol is not in the agreement"):
        ZmqWire(identity("carol"), {"alice": keys_of("alice", HERE), "bob": keys_of("bob")})


def test_a_secret_that_is_not_the_listed_one_is_refused() -> None:
    other = Identity(name="bob", secret=make_secret())
    with pytest.raises(UserError, match="secret_key"):
        ZmqWire(other, {"alice": keys_of("alice", HERE), "bob": keys_of("bob")})


def test_two_parties_with_one_key_are_refused() -> None:
    twin = PeerKeys(
        public_key=secret_of("alice").curve_public, signing_key=secret_of("bob").signing_public
    )
    with pytest.raises(UserError, match="alice and bob have the same public_key"):
        ZmqWire(identity("alice"), {"alice": keys_of("alice", HERE), "bob": twin})


def test_a_port_in_use_is_the_users_to_change(b: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match="port is in use"):
            b.alice(bind=address)


def test_a_failed_open_leaves_nothing_open(b: Bench) -> None:
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for _ in range(3):
            with pytest.raises(UserError):
                b.alice(bind=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
    assert descriptors() == before


def test_both_ends_know_the_same_key_bytes(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(f"tcp://127.0.0.1:{port_of(alice)}")
    assert dict(alice.keys) == dict(bob.keys)
    assert {len(key) for key in alice.keys.values()} == {32}


# --- messages ---------------------------------------------------------------------------

SIZES = (0, 1, 188, 189, 190, 221, 222, 223, 65_535, 65_536, (1 << 20) - 1, 1 << 20)


@pytest.fixture
def joined(b: Bench) -> Iterator[tuple[Bench, ZmqWire, ZmqWire, bytes, bytes, Proxy]]:
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        bob = b.bob(proxy.address)
        yield b, alice, bob, *b.connect(alice, bob), proxy


Joined = tuple[Bench, ZmqWire, ZmqWire, bytes, bytes, Proxy]


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


def test_wire_bytes_are_counted_to_the_byte(joined: Joined) -> None:
    b, alice, bob, at_alice, at_bob, proxy = joined
    for size in SIZES:
        b.send(bob, "alice", at_bob, bytes(size))
        b.send(alice, "bob", at_alice, bytes(size + 1))
    b.run(lambda: len(b.messages(alice)) > len(SIZES) and len(b.messages(bob)) >= len(SIZES))
    proxy.wait(lambda p: p.passed["up"] >= bob.bytes_sent and p.passed["down"] >= alice.bytes_sent)
    assert proxy.passed == {"up": bob.bytes_sent, "down": alice.bytes_sent}
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


@pytest.mark.parametrize("sender", ["alice", "bob"])
def test_waiting_for_room_sleeps_and_is_woken_by_room(
    b: Bench, monkeypatch: pytest.MonkeyPatch, sender: str
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
        ready: list[list[Any]] = []
        poll = zmq.Poller.poll

        def watched(self: zmq.Poller, timeout: Any = None) -> list[Any]:
            ready.append(poll(self, timeout))
            return ready[-1]

        monkeypatch.setattr(zmq.Poller, "poll", watched)
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


# --- options ------------------------------------------------------------------------------

TABLE = {
    zmq.CURVE_SERVER: 1,
    zmq.ZAP_DOMAIN: b"splitfed",
    zmq.ZAP_ENFORCE_DOMAIN: 1,
    zmq.MAXMSGSIZE: (1 << 20) + (64 << 10),
    zmq.SNDHWM: 64,
    zmq.RCVHWM: 64,
    zmq.HEARTBEAT_IVL: 10_000,
    zmq.HEARTBEAT_TIMEOUT: 60_000,
    zmq.HEARTBEAT_TTL: 60_000,
    zmq.CONNECT_TIMEOUT: 3_000,
    zmq.RECONNECT_IVL: 500,
    zmq.RECONNECT_IVL_MAX: 3_000,
    zmq.HANDSHAKE_IVL: 5_000,
    zmq.LINGER: 0,
    zmq.ROUTER_MANDATORY: 1,
    zmq.IPV6: 1,
}
WRITE_ONLY = {zmq.ROUTER_MANDATORY}
KEYS = {zmq.CURVE_PUBLICKEY, zmq.CURVE_SECRETKEY, zmq.CURVE_SERVERKEY}


@pytest.fixture
def tcp_sockets(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, dict[int, Any]]]:
    """The socket that was bound and the one that dialled, with all options ever set on them."""
    options: dict[int, dict[int, Any]] = {}
    found: dict[str, tuple[Any, dict[int, Any]]] = {}
    setting = zmq.Socket.setsockopt

    def recorded(self: Any, option: int, value: Any) -> None:
        options.setdefault(id(self), {})[option] = value
        setting(self, option, value)

    monkeypatch.setattr(zmq.Socket, "setsockopt", recorded)
    for door in ("bind", "connect"):
        original = getattr(zmq.Socket, door)

        def watched(self: Any, address: str, _door: str = door, _original: Any = original) -> Any:
            if address.startswith("tcp://"):
                found[_door] = (self, options[id(self)])
            return _original(self, address)

        monkeypatch.setattr(zmq.Socket, door, watched)
    return found


def test_every_option_of_the_table_is_set_and_no_other(
    b: Bench, tcp_sockets: dict[str, tuple[Any, dict[int, Any]]]
) -> None:
    alice = b.alice(options=WireOptions())
    b.bob(str(alice.endpoint), options=WireOptions())
    for door, absent in (("bind", set()), ("connect", {zmq.CURVE_SERVER, zmq.ROUTER_MANDATORY})):
        sock, options = tcp_sockets[door]
        expected = {option: value for option, value in TABLE.items() if option not in absent}
        assert {o: v for o, v in options.items() if o not in KEYS} == expected
        for option, value in expected.items():
            if option not in WRITE_ONLY:
                got = sock.getsockopt(option)
                assert (got.rstrip(b"\0") if isinstance(got, bytes) else got) == value


def test_the_dialler_pins_the_key_of_the_agreement(
    b: Bench, tcp_sockets: dict[str, tuple[Any, dict[int, Any]]]
) -> None:
    b.bob(HERE)
    pinned = tcp_sockets["connect"][1][zmq.CURVE_SERVERKEY]
    assert pinned.decode() == secret_of("alice").curve_public


def test_the_heartbeat_time_stays_below_the_overflow() -> None:
    assert WireOptions().heartbeat_timeout < 65.5


# --- threads and descriptors ----------------------------------------------------------------


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def tasks() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_a_closed_wire_leaves_no_thread_and_no_descriptor(b: Bench) -> None:
    before = descriptors(), tasks()
    for _ in range(3):
        alice = b.alice()
        bob = b.bob(str(alice.endpoint))
        b.connect(alice, bob)
        b.close(bob)
        b.close(alice)
    assert (descriptors(), tasks()) == before


def test_fifty_reconnections_leave_no_thread_and_no_descriptor(joined: Joined) -> None:
    b, alice, bob, _, _, proxy = joined
    seen = []
    for number in range(55):
        proxy.reset()
        b.connect(alice, bob)
        b.run(lambda: len(b.downs(alice)) == len(b.downs(bob)))
        proxy.wait(lambda p: p.connections == 1)
        if number >= 4:
            seen.append((descriptors(), tasks()))
    assert len(b.ups(bob)) == 56
    assert max(seen[-5:]) <= max(seen[:5])


def test_closing_twice_does_nothing(b: Bench) -> None:
    alice = b.alice()
    alice.close()
    alice.close()


def test_another_thread_is_refused_before_libzmq_aborts_the_process(b: Bench) -> None:
    alice = b.alice()
    errors: list[BaseException] = []

    def misuse() -> None:
        for act in (
            lambda: alice.poll(0, 0),
            lambda: alice.send("bob", b"", HEADER, b""),
            lambda: alice.rebuild("bob"),
            alice.close,
        ):
            try:
                act()
            except Defect as error:
                errors.append(error)

    thread = threading.Thread(target=misuse)
    thread.start()
    thread.join(10)
    assert len(errors) == 4
    # And it still works where it belongs.
    b.connect(alice, b.bob(str(alice.endpoint)))
