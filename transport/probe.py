"""Looks who answers at an address: tells a wrong key from a forwarder with nobody behind it.

To libzmq both look alike: the connection is accepted and then closed. But a process that
demands CURVE sends a greeting first. One plain TCP connection, without blocking.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import socket

from splitfed.transport import zmtp


class Answer(enum.Enum):
    """What a probe found."""

    CURVE = "curve"
    """A ZeroMQ process that demands CURVE: it closed because of the key."""
    OTHER = "other"
    """Some other service."""
    CLOSED = "closed"
    """Accepted and closed without a byte: a forwarder whose target is absent."""
    SILENT = "silent"
    """Accepted, and not a word; or no connection within the time."""
    REFUSED = "refused"
    """No connection."""


class Probe:
    """One look at ``host:port``, driven by a poll loop.

    Args:
        deadline: on the clock of the caller; :meth:`step` compares it with its ``now``.
    """

    def __init__(self, host: str, port: int, deadline: float) -> None:
        self.deadline = deadline
        self.answer: Answer | None = None
        self._received = b""
        self._connected = False
        self._socket: socket.socket | None = None
        try:
            # libzmq resolved the same name moments ago, so this waits no longer than that.
            family, kind, protocol, _, address = socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )[0]
            self._socket = socket.socket(family, kind, protocol)
            self._socket.setblocking(False)
            self._socket.connect(address)
        except BlockingIOError:
            pass
        except OSError:
            self._finish(Answer.REFUSED)

    @property
    def waits_for(self) -> tuple[int, bool] | None:
        """The descriptor to poll and whether for writing; None when finished."""
        if self._socket is None:
            return None
        return self._socket.fileno(), not self._connected

    def step(self, now: float) -> Answer | None:
        """Goes on as far as possible without waiting; the answer when there is one."""
        try:
            self._advance()
        except BlockingIOError:
            pass
        except OSError:
            self._finish(self._ended())
        if self.answer is None and now >= self.deadline:
            self._finish(Answer.OTHER if self._is_foreign() else Answer.SILENT)
        return self.answer

    def close(self) -> None:
        """Ends the look without an answer."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.close()
            self._socket = None

    def _advance(self) -> None:
        if self._socket is None:
            return
        if not self._connected:
            error = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, "no connection")
            try:
                self._socket.getpeername()
            except OSError as pending:
                if pending.errno == errno.ENOTCONN:
                    return
                raise
            self._connected = True
            self._socket.send(zmtp.greeting())
        while len(self._received) < zmtp.GREETING_BYTES:
            block = self._socket.recv(zmtp.GREETING_BYTES - len(self._received))
            if not block:
                self._finish(self._ended())
                return
            self._received += block
        self._finish(Answer.CURVE if zmtp.is_curve_greeting(self._received) else Answer.OTHER)

    def _ended(self) -> Answer:
        if not self._connected:
            return Answer.REFUSED
        # ZeroMQ without CURVE closes in the middle of its greeting.
        return Answer.OTHER if self._received else Answer.CLOSED

    def _is_foreign(self) -> bool:
        return bool(self._received) and self._received[0] != 0xFF

    def _finish(self, answer: Answer) -> None:
        self.answer = answer
        self.close()
