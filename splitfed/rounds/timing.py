"""Where a round's time went, in seconds that do not overlap."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from splitfed.rounds.learner import Trained
from splitfed.transport.events import Traffic


class RoundClock:
    """Measures one round.

    ``wait`` is the time between our own offer and the moment the slowest peer stopped
    training; everything else between the end of our training and the end of the round's
    commit is ``exchange``: snapshot, hashing, ledger, sending, receiving, checks,
    aggregation, votes, checkpoint.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = self._offered = clock()
        self._spent: dict[str, float] = {}
        self._wait = 0.0

    def begin(self, traffic: Traffic) -> None:
        """A round begins. What passed since the last mark (the previous round's commit)
        counts as this round's exchange."""
        self._before = traffic
        self._spent = {"train": 0.0, "exchange": 0.0, "evaluate": 0.0}
        self._wait = 0.0
        self.mark("exchange")

    def restart(self) -> None:
        """Forget the time since the last mark: it belongs to no round."""
        self._last = self._clock()

    def mark(self, phase: str) -> None:
        """Everything since the last mark was ``phase``."""
        now = self._clock()
        self._spent[phase] += now - self._last
        self._last = now

    def waited_until(self, busy: Iterable[float]) -> None:
        """Peers trained until these moments; what lies after the last mark was waiting."""
        self.mark("exchange")
        until = max(busy, default=self._last)
        self._wait = min(max(until - self._offered, 0.0), self._spent["exchange"])
        self._spent["exchange"] -= self._wait

    def offered(self) -> None:
        """Our own update is on its way: from now on a late peer is waited for."""
        self._offered = self._clock()

    def row(self, traffic: Traffic, trained: Trained) -> dict[str, float | int]:
        """The history row's times (seconds) and bytes."""
        return {
            "train_s": trained.seconds,
            "exchange_s": self._spent["exchange"],
            "wait_s": self._wait,
            "evaluate_s": self._spent["evaluate"],
            "bytes_sent": traffic.wire_sent - self._before.wire_sent,
            "bytes_received": traffic.wire_received - self._before.wire_received,
        }
