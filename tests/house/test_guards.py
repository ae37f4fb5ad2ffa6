"""The guards of tests/conftest.py guard."""

from __future__ import annotations

import socket
import warnings

import pytest
import torch
import zmq


def test_python_socket_cannot_leave_this_machine() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        pytest.raises(AssertionError, match=r"192\.0\.2\.1"),
    ):
        sock.sendto(b"x", ("192.0.2.1", 9))
    with pytest.raises(AssertionError, match=r"example\.org"):
        socket.create_connection(("example.org", 80), timeout=1)


@pytest.mark.parametrize("address", ["tcp://192.0.2.1:9", "tcp://*:0"])
def test_zeromq_socket_cannot_leave_this_machine(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        with pytest.raises(AssertionError, match="127"):
            sock.connect(address)
        with pytest.raises(AssertionError, match="127"):
            sock.bind(address)


def test_loopback_is_allowed() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as sock:
        assert sock.bind_to_random_port("tcp://127.0.0.1") > 0


def test_one_thread_in_torch() -> None:
    assert torch.get_num_threads() == 1


def test_a_warning_is_an_error() -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn("old", DeprecationWarning, stacklevel=1)
