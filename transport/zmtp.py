"""The bytes that ZMTP 3.1 with CURVE puts around our messages, so that they can be counted.

libzmq keeps no byte counters, and those of the operating system are not portable. But every
length is fixed by the protocols: ZMTP 3.1 (ZeroMQ RFC 37) frames, CURVE (RFC 26) boxes.
Heartbeats are apart: libzmq sends them by itself (42 bytes for a PING, 40 for a PONG).
"""

from __future__ import annotations

GREETING_BYTES = 64

_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_VERSION = 3
_MECHANISM = slice(12, 32)


def frame_bytes(size: int) -> int:
    """Bytes on the wire of a frame with ``size`` bytes of body: flags, length, body."""
    return size + (2 if size <= 255 else 9)


def part_bytes(size: int) -> int:
    """Bytes on the wire of one message part of ``size`` bytes.

    CURVE puts 8 bytes of name, an 8-byte nonce, a 16-byte authenticator and one byte of
    flags in front of it.
    """
    return frame_bytes(33 + size)


def _metadata_bytes(*properties: tuple[str, str]) -> int:
    return sum(1 + len(name) + 4 + len(value) for name, value in properties)


_PROPERTIES = _metadata_bytes(("Socket-Type", "DEALER"), ("Identity", ""))  # ROUTER: as long

_HELLO = 6 + 2 + 72 + 32 + 8 + 80
_WELCOME = 8 + 16 + 144
_INITIATE = 9 + 96 + 8 + 16 + 128 + _PROPERTIES
_READY = 6 + 8 + 16 + _PROPERTIES
_ERROR = 6 + 1 + len("400")

DIALER_HANDSHAKE_BYTES = GREETING_BYTES + frame_bytes(_HELLO) + frame_bytes(_INITIATE)
"""What the dialler writes before its first message, and also when it is refused."""

LISTENER_HANDSHAKE_BYTES = GREETING_BYTES + frame_bytes(_WELCOME) + frame_bytes(_READY)
"""What the listener writes before its first message."""

LISTENER_REFUSAL_BYTES = GREETING_BYTES + frame_bytes(_WELCOME) + frame_bytes(_ERROR)
"""What the listener writes when it refuses a key."""


def greeting() -> bytes:
    """The greeting of a process that demands CURVE, as RFC 37 lays it out."""
    start = _SIGNATURE + bytes([_VERSION, 1]) + b"CURVE".ljust(20, b"\0") + b"\0"
    return start.ljust(GREETING_BYTES, b"\0")


def is_curve_greeting(answer: bytes) -> bool:
    """Whether ``answer`` is the complete greeting of a ZMTP 3 process that demands CURVE.

    The as-server flag is not looked at: libzmq never sets it.
    """
    return (
        len(answer) >= GREETING_BYTES
        and answer[0] == 0xFF
        and answer[9] & 1 == 1
        and answer[10] >= _VERSION
        and answer[_MECHANISM].rstrip(b"\0") == b"CURVE"
    )
