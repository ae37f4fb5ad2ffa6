"""How long nothing was new of each peer, in time in which this machine was awake."""

from __future__ import annotations

from collections.abc import Callable, Collection

ASLEEP = 30.0
"""Seconds that the time between two looks counts at most. There is a look every second: in a
longer pause this process or its machine stood still, and no peer is to blame for that."""


class Quiet:
    """Watches peers from now on; ``clock`` gives monotonic seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._looked = clock()
        self._awake = 0.0
        self._news: dict[str, tuple[object, float]] = {}

    def look(self) -> None:
        """Take the time; once for every look at the peers."""
        now = self._clock()
        self._awake += min(now - self._looked, ASLEEP)
        self._looked = now

    def of(self, peer: str, news: object) -> float:
        """Seconds for which ``news`` of ``peer`` has been the same."""
        known = self._news.get(peer)
        if known is None or known[0] != news:
            self._news[peer] = known = (news, self._awake)
        return self._awake - known[1]

    def only(self, peers: Collection[str]) -> None:
        """Nothing is awaited of others: when it is again, their time begins anew."""
        self._news = {peer: known for peer, known in self._news.items() if peer in peers}
