"""The yardstick of the exchange benchmark: pyzmq with CURVE and nothing else.

Two processes, one socket and one thread each, the same chunk size, header and high-water
marks as splitfed's link, but no digests, no credit and no checks. What arrives is dropped,
or, with ``task["keep"]``, copied into memory that is new to the process: what any receiver
pays that wants to use what it received.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import zmq

from measuring import MIB, hear, now, processor_seconds, say

HEADER = bytes(64)
HIGH_WATER = 64


def exchange_bare(task: dict[str, Any]) -> None:
    """One side: send ``task["send"]`` chunks of 1 MiB and receive ``task["receive"]``."""
    listens = bool(task["listens"])
    payload = memoryview(os.urandom(int(task["send"]) * MIB))
    chunks = [payload[start : start + MIB] for start in range(0, len(payload), MIB)]
    with zmq.Context() as context, context.socket(zmq.ROUTER if listens else zmq.DEALER) as sock:
        sock.linger = 0
        sock.sndhwm = sock.rcvhwm = HIGH_WATER
        sock.curve_secretkey = task["secret"].encode()
        sock.curve_publickey = task["public"].encode()
        if listens:
            sock.curve_server = True
            sock.router_mandatory = True
            say({"port": sock.bind_to_random_port("tcp://127.0.0.1")})
            hear()
            prefix = sock.recv_multipart()[:1]
            sock.send_multipart([*prefix, b"hello"])
        else:
            sock.curve_serverkey = task["server"].encode()
            sock.connect(f"tcp://127.0.0.1:{hear()}")
            sock.send(b"hello")
            sock.recv()
            prefix = []
        say({"ready": True})
        hear()
        began, used = now(), processor_seconds()
        kept = bytearray(int(task["receive"]) * MIB) if task["keep"] else None
        _pump(sock, prefix, chunks, int(task["receive"]), kept)
        say({"began": began, "ended": now(), "processor_s": processor_seconds() - used})
        hear()  # stay until the other side has everything


def _pump(
    sock: zmq.Socket[bytes],
    prefix: list[bytes],
    chunks: Sequence[memoryview],
    expected: int,
    kept: bytearray | None,
) -> None:
    """Send all chunks and receive ``expected`` ones, both as fast as the socket goes."""
    sent = received = 0
    while sent < len(chunks) or received < expected:
        interest = zmq.POLLIN | (zmq.POLLOUT if sent < len(chunks) else 0)
        ready = sock.poll(None, interest)
        if ready & zmq.POLLOUT:
            sock.send_multipart([*prefix, HEADER, chunks[sent]], copy=False)
            sent += 1
        if ready & zmq.POLLIN:
            frames = sock.recv_multipart(copy=False)
            chunk = frames[-1].buffer
            assert len(chunk) == MIB
            if kept is not None:
                kept[received * MIB : (received + 1) * MIB] = chunk
            received += 1
