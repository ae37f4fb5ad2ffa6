"""The fault proxy does what it says, to the byte."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        yield server


@contextlib.contextmanager
def joined(listener: socket.socket) -> Iterator[tuple[Proxy, socket.socket, socket.socket]]:
    with Proxy(listener.getsockname()) as proxy:
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=10)
        server, _ = listener.accept()
        server.settimeout(10)
        with client, server:
            yield proxy, client, server


def read(side: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        block = side.recv(count - len(data))
        assert block, f"ended after {len(data)} of {count} bytes"
        data += block
    return data


def test_bytes_pass_both_ways_and_are_counted(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        client.sendall(b"a" * 1000)
        server.sendall(b"b" * 300)
        assert read(server, 1000) == b"a" * 1000
        assert read(client, 300) == b"b" * 300
        proxy.wait(lambda p: p.passed == {"up": 1000, "down": 300})


def test_more_than_the_buffer_passes_unchanged(listener: socket.socket) -> None:
    content = bytes(range(256)) * 8192
    with joined(listener) as (_, client, server):
        thread = threading.Thread(target=client.sendall, args=(content,))
        thread.start()
        try:
            assert read(server, len(content)) == content
        finally:
            thread.join(10)


def test_one_bit_of_one_byte_is_flipped_at_its_place_once(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        proxy.corrupt(after=3)
        client.sendall(bytes(10))
        assert read(server, 10) == bytes(3) + b"\1" + bytes(6)
        client.sendall(bytes(10))
        assert read(server, 10) == bytes(10)


def test_a_cut_after_a_byte_passes_that_byte_and_no_other(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        proxy.cut_after(7)
        client.sendall(bytes(20))
        with pytest.raises((ConnectionResetError, AssertionError)):
            read(server, 8)
        assert proxy.passed["up"] == 7
        assert proxy.connections == 0


def test_cut_ends_both_sides(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        assert proxy.cut() == 1
        assert client.recv(1) == b""
        assert server.recv(1) == b""


def test_reset_resets_both_sides(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        assert proxy.reset() == 1
        for side in (client, server):
            with pytest.raises(ConnectionResetError):
                side.recv(1)


def test_a_black_hole_keeps_what_flows_again_when_healed(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        proxy.black_hole()
        client.sendall(b"late")
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.recv(1)
        assert proxy.passed["up"] == 0
        server.settimeout(10)
        proxy.heal()
        assert read(server, 4) == b"late"


def test_half_open_resets_the_listener_and_tells_the_dialler_nothing(
    listener: socket.socket,
) -> None:
    with joined(listener) as (proxy, client, server):
        assert proxy.half_open() == 1
        with pytest.raises(ConnectionResetError):
            server.recv(1)
        client.sendall(b"into the void")
        client.settimeout(0.05)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_a_refusing_proxy_accepts_and_closes(listener: socket.socket) -> None:
    with Proxy(listener.getsockname()) as proxy:
        proxy.refuse()
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=10) as client:
            assert client.recv(1) == b""


def test_latency_and_bandwidth_delay_without_losing(listener: socket.socket) -> None:
    with joined(listener) as (proxy, client, server):
        proxy.latency(0.02)
        proxy.bandwidth(1_000_000)
        client.sendall(bytes(range(200)) * 100)
        assert read(server, 20_000) == bytes(range(200)) * 100


def test_the_end_of_one_side_reaches_the_other(listener: socket.socket) -> None:
    with joined(listener) as (_, client, server):
        client.sendall(b"bye")
        client.shutdown(socket.SHUT_WR)
        assert read(server, 3) == b"bye"
        assert server.recv(1) == b""
        server.sendall(b"ok")
        assert read(client, 2) == b"ok"
