"""How much time parties that do not agree, or that lie, may cost the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable

HEARD_OUT = 30.0
"""Seconds in all that greetings alone, without proof, may keep a party from going on."""
QUICK, SLOWEST = 16, 5.0
"""So many views of one round a party signs at once; after that the pause before the next doubles,
from 0.1 up to so many seconds."""
MOST_DOUBLINGS = 6


class Pace:
    """Of the views that one party signs. ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._round = self._signed = 0
        self._since = 0.0

    def doublings(self, round: int) -> int:
        """How often the time is to be doubled after which a party counts as absent: the more views
        of ``round`` were signed, the longer, or parties that take each other for absent in turn
        might never agree (as in M. Castro, B. Liskov, *Practical Byzantine Fault Tolerance*,
        OSDI 1999, where time-outs of view changes double)."""
        return min(self._signed // QUICK, MOST_DOUBLINGS) if round == self._round else 0

    def may_sign(self, round: int) -> bool:
        """Whether the next view of ``round`` may be signed now; it is then counted."""
        if round != self._round:
            self._round, self._signed = round, 0
        now, more = self._clock(), self._signed - QUICK
        if more >= 0 and now - self._since < min(SLOWEST, 0.1 * 2.0 ** min(more, 10)):
            return False
        self._signed, self._since = self._signed + 1, now
        return True


class Claims:
    """What peers said in their greetings, and nobody has proven.

    Attributes:
        closed: the last round that each peer said it had closed.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: float | None = None
        self.closed: dict[str, int] = {}

    def ahead(self, peers: Iterable[str], round: int) -> list[str]:
        """Those of ``peers`` that say they have closed ``round``; nobody after
        :data:`HEARD_OUT` seconds in all."""
        found = [peer for peer in peers if self.closed.get(peer, 0) >= round]
        if not found:
            return []
        if self._until is None:
            self._until = self._clock() + HEARD_OUT
        return found if self._clock() < self._until else []
