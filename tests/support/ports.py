"""A port on loopback that nobody uses right now."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Chosen by the system; free at the time of asking."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
