"""What the operator is told: refused, wrong key, nobody there, not splitfed at all."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import zmq

from splitfed.errors import PeerKeyMismatch, PeerRefusedUs, PeerUnreachable
from splitfed.transport.keys import make_secret
from splitfed.transport.wire import Trouble
from splitfed.transport.zeromq import ZmqWire
from splitfed.transport.zmtp import greeting
from tests.support.proxy import Proxy
from tests.support.services import service
from tests.support.wires import QUICK, Bench, port_of, secret_of


def first_trouble(b: Bench, wire: ZmqWire, kind: type[Exception]) -> Trouble:
    def found() -> list[Trouble]:
        return [trouble for trouble in b.troubles(wire) if isinstance(trouble.error, kind)]

    b.run(lambda: bool(found()))
    return found()[0]


def speaks_first(connection: socket.socket) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")
    connection.recv(1000)


def speaks_when_asked(connection: socket.socket) -> None:
    connection.recv(1000)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


# --- on the dialler -----------------------------------------------------------------------


def test_a_key_that_is_not_on_the_peers_list_is_told_as_refused_at_once(b: Bench) -> None:
    alice = b.alice(bob=make_secret())
    bob = b.bob(str(alice.endpoint))
    trouble = first_trouble(b, bob, PeerRefusedUs)
    assert trouble.peer == "alice"
    assert trouble.fatal
    assert "not on its list" in str(trouble.error)
    assert "[parties.bob]" in trouble.error.cure
    assert not b.ups(bob)


def test_a_pinned_key_that_the_peer_does_not_hold_is_told_as_a_mismatch(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint), alice=make_secret())
    trouble = first_trouble(b, bob, PeerKeyMismatch)
    assert trouble.peer == "alice"
    assert trouble.fatal
    assert "does not hold the key" in str(trouble.error)
    assert not b.ups(bob)


@pytest.mark.parametrize("answer", [speaks_first, speaks_when_asked])
def test_another_service_at_the_address_cannot_hold_the_key(
    b: Bench, answer: Callable[[socket.socket], None]
) -> None:
    with service(answer) as address:
        bob = b.bob(address)
        trouble = first_trouble(b, bob, PeerKeyMismatch)
        assert trouble.fatal
        assert "not splitfed" in str(trouble.error)
        b.close(bob)


def test_a_peer_without_encryption_cannot_hold_the_key(b: Bench) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as plain:
        plain.linger = 0
        port = plain.bind_to_random_port("tcp://127.0.0.1")
        bob = b.bob(f"tcp://127.0.0.1:{port}")
        assert first_trouble(b, bob, PeerKeyMismatch).fatal


def test_nobody_listening_is_told_and_tried_again_until_somebody_does(b: Bench) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{reserved.getsockname()[1]}"
        bob = b.bob(address)
        trouble = first_trouble(b, bob, PeerUnreachable)
    assert not trouble.fatal
    assert "nobody listens there" in str(trouble.error)
    alice = b.alice(bind=address)
    b.connect(alice, bob)
    assert len(b.troubles(bob)) == 1


def test_a_forwarder_without_a_peer_behind_it_is_an_absent_peer_and_no_wrong_key(b: Bench) -> None:
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        proxy.refuse()
        bob = b.bob(proxy.address)
        trouble = first_trouble(b, bob, PeerUnreachable)
        assert not trouble.fatal
        assert "accepted and closed at once" in str(trouble.error)
        proxy.heal()
        b.connect(alice, bob)


def test_a_silent_address_is_an_absent_peer(b: Bench) -> None:
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        proxy.black_hole()
        bob = b.bob(proxy.address, options=replace(QUICK, handshake_interval=0.1))
        trouble = first_trouble(b, bob, PeerUnreachable)
        assert not trouble.fatal
        assert "nobody answers" in str(trouble.error)
        b.close(bob)


def test_a_trouble_is_told_once_and_again_after_a_connection(b: Bench) -> None:
    alice = b.alice()
    with Proxy(("127.0.0.1", port_of(alice))) as proxy:
        proxy.refuse()
        bob = b.bob(proxy.address)
        b.run(lambda: proxy.accepted >= 12)
        assert len(b.troubles(bob)) == 1
        proxy.heal()
        b.connect(alice, bob)
        proxy.refuse()
        proxy.reset()
        b.run(lambda: len(b.troubles(bob)) == 2)


def test_strangers_cannot_fill_the_report(b: Bench) -> None:
    alice = b.alice(bob=make_secret())
    for _ in range(12):
        stranger = make_secret()
        with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
            dealer.linger = 0
            dealer.curve_publickey = stranger.curve_public.encode()
            dealer.curve_secretkey = stranger.curve_secret.encode()
            dealer.curve_serverkey = secret_of("alice").curve_public.encode()
            before = alice.bytes_received
            dealer.connect(str(alice.endpoint))
            b.run(lambda before=before: alice.bytes_received > before)
    assert len(b.troubles(alice)) == 8


# --- on the listener ----------------------------------------------------------------------


def test_the_listener_names_the_unknown_key(b: Bench) -> None:
    alice = b.alice(bob=make_secret())
    b.bob(str(alice.endpoint))
    trouble = first_trouble(b, alice, PeerKeyMismatch)
    assert trouble.peer == "bob"
    assert not trouble.fatal  # anybody can dial; it must not end our run
    assert secret_of("bob").curve_public in str(trouble.error)
    assert "127.0.0.1" in str(trouble.error)


def test_the_listener_says_that_a_dialler_pins_another_key(b: Bench) -> None:
    alice = b.alice()
    b.bob(str(alice.endpoint), alice=make_secret())
    trouble = first_trouble(b, alice, PeerKeyMismatch)
    assert trouble.peer == "bob"
    assert not trouble.fatal
    assert "pins another key than ours" in str(trouble.error)


def test_a_plaintext_client_is_told(b: Bench) -> None:
    alice = b.alice()
    with socket.create_connection(("127.0.0.1", port_of(alice))) as plain:
        plain.sendall(greeting().replace(b"CURVE", b"NULL\0"))
        trouble = first_trouble(b, alice, PeerKeyMismatch)
    assert not trouble.fatal
    assert "does not speak the encrypted protocol" in str(trouble.error)


def test_a_plaintext_client_is_refused(b: Bench) -> None:
    alice = b.alice()
    with (
        zmq.Context() as context,
        context.socket(zmq.DEALER) as plain,
        plain.get_monitor_socket(zmq.EVENT_DISCONNECTED) as monitor,
    ):
        plain.linger = 0
        plain.connect(str(alice.endpoint))
        plain.send_multipart([bytes(64), b"plain"])
        b.run(lambda: bool(monitor.poll(0)))
        b.connect(alice, b.bob(str(alice.endpoint)))
        plain.disable_monitor()
    assert [bytes(message.body) for message in b.messages(alice)] == [b"hello"]


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 200, greeting() + b"\xff" * 500, greeting()[:30], b"\0"],
)
def test_raw_garbage_is_refused_and_the_peer_still_gets_in(b: Bench, garbage: bytes) -> None:
    alice = b.alice()
    with socket.create_connection(("127.0.0.1", port_of(alice)), timeout=10) as stranger:
        stranger.sendall(garbage)
        with contextlib.suppress(OSError):  # the listener may have hung up already
            stranger.shutdown(socket.SHUT_WR)
        ended = threading.Event()

        def read_to_the_end() -> None:
            with contextlib.suppress(OSError):
                while stranger.recv(4096):
                    pass
            ended.set()

        thread = threading.Thread(target=read_to_the_end)
        thread.start()
        b.run(ended.is_set)
        thread.join(10)
        b.connect(alice, b.bob(str(alice.endpoint)))
    assert [bytes(message.body) for message in b.messages(alice)] == [b"hello"]
    assert not [trouble for trouble in b.troubles(alice) if trouble.fatal]


def test_nobody_is_suspected_while_the_peer_is_there(b: Bench) -> None:
    alice = b.alice()
    bob = b.bob(str(alice.endpoint))
    b.connect(alice, bob)
    stranger = make_secret()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.linger = 0
        dealer.curve_publickey = stranger.curve_public.encode()
        dealer.curve_secretkey = stranger.curve_secret.encode()
        dealer.curve_serverkey = secret_of("alice").curve_public.encode()
        before = alice.bytes_received
        dealer.connect(str(alice.endpoint))
        b.run(lambda: alice.bytes_received > before)
    assert not b.troubles(alice)
