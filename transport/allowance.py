"""How many frames a connection may send that bring nothing: enough for any honest peer."""

from __future__ import annotations

BURST = 4096
RATE = 1024.0
"""Frames at once and, on the long run, a second. An honest peer sends a handful a round and a
STATUS a second; a flood of small frames would cost this process a processor."""


class Allowance:
    """Counts frames of one connection. A frame that moves a chunk, either way, is free."""

    def __init__(self, burst: int = BURST, rate: float = RATE) -> None:
        self._burst, self._rate = float(burst), rate
        self._left = float(burst)
        self._at: float | None = None

    def take(self, now: float) -> bool:
        """One frame came; False if that is more than is allowed."""
        if self._at is not None:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True

    def earn(self) -> None:
        """One chunk moved."""
        self._left = min(self._burst, self._left + 1.0)
