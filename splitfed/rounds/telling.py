"""What a run tells of itself while it goes on: the screen, ``status.json`` and ``log.jsonl``.

One object knows what the party does, what it waits for and how the link to each peer stands,
so that the three never contradict each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Self

from splitfed.progress import NEWS, Progress, link_words
from splitfed.rounds.acquaintance import Acquaintance, passed
from splitfed.rounds.evidence import alarm_of
from splitfed.rounds.learner import Trained
from splitfed.rounds.spending import Spending
from splitfed.rounds.terms import UPDATE
from splitfed.store import RunFolder
from splitfed.transport.events import Offer
from splitfed.transport.link import Link

NAMES = {UPDATE: "update", "outputs": "outputs", "private": "private layers"}
"""How people call what is exchanged, by kind."""

REFRESH = 2.0
"""Seconds between two versions of status.json while nothing else changes."""


@dataclass(slots=True)
class _Wait:
    """An open wait; ``told``: it has lasted long enough to be news."""

    what: str
    of: list[str]
    since: float
    since_wall: str
    silent: Mapping[str, float]
    told: bool = False

    @property
    def words(self) -> str:
        return f"the {self.what} of {', '.join(self.of)}"


class Telling:
    """Tells the screen, the run folder and the peers what this party does.

    ``heard`` is for the link's thread (see :meth:`Acquaintance.heard`), :meth:`refresh` for any,
    everything else for the engine's. Used as a context it refreshes status.json by a thread of
    its own as well, since training and evaluating may be busy for minutes.

    Args:
        rounds: of the agreement.
        number: the round of training that an exchange is, or that it comes after.
        spending: says whether peers may be told how many steps a round takes, and where the
            data set's privacy budget stands.
        patience, on_absent: as in :class:`~splitfed.rounds.Engine`.
        routes: how each peer is reached, in words; for the operator.
    """

    def __init__(
        self,
        *,
        party: str,
        folder: RunFolder,
        link: Link,
        progress: Progress,
        rounds: int,
        number: Callable[[int], int],
        spending: Spending,
        patience: float,
        on_absent: str,
        clock: Callable[[], float],
        routes: Mapping[str, str],
    ) -> None:
        self._folder, self._link, self._progress, self._clock = folder, link, progress, clock
        self._number, self._spending = number, spending
        self._patience, self._alone = patience, ""
        self._epsilon: float | None = None
        self._fixed = {
            "schema": 1,
            "party": party,
            "boot": folder.boot,
            "rounds": rounds,
            "patience_s": patience,
            "on_absent": on_absent,
        }
        self._peers = Acquaintance(link, folder, number=number, routes=routes, clock=clock)
        self.heard = self._peers.heard
        self._phase, self._round, self._exchange = "starting", 0, 0
        self._steps: tuple[int, int] | None = None
        self._moved = clock()
        self._wait: _Wait | None = None
        self._written = float("-inf")
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # --- the engine's thread -----------------------------------------------------------

    def phase(self, phase: str, exchange: int) -> None:
        """This party now does ``phase`` in ``exchange``; what it waited for is over."""
        self._exchange = exchange
        self._link.status(phase, exchange, 0, 0)
        self.doing(phase, self._number(exchange))

    def doing(self, phase: str, round: int = 0) -> None:
        """The same for what peers need not know; without ``round`` for what is of none."""
        self._wait = None
        self._phase, self._round, self._steps = phase, round, None
        self._moved = self._clock()
        self._progress.on_phase(self._in_words())
        self.refresh()

    def step(self, exchange: int, step: int, steps: int, loss: float) -> None:
        """``step`` of ``steps`` are done; without ``steps`` merely a sign of life, from work
        whose steps are nobody's business, such as training the local_only branch."""
        # Where the steps would give away n, a sign of life that only the clock decides.
        public = self._spending.public_steps and steps
        if not self._link.closed:
            told = (step, steps) if public else (int(self._clock()) // 10, 0)
            self._link.status(self._phase, exchange, *told)
        self._moved = self._clock()
        if steps:
            self._steps = step, steps
            self._progress.on_step(self._number(exchange), step, steps, loss)
        self.tick()

    def waiting(self, what: str, of: Sequence[str], silent: Mapping[str, float]) -> None:
        """We wait for ``what`` of these peers: to be said again at every look.

        Args:
            silent: seconds that patience has counted for each of them.
        """
        now, wait = self._clock(), self._wait
        if wait is None or wait.what != what:
            wall = datetime.now(UTC).isoformat(timespec="seconds")
            self._wait = wait = _Wait(what, list(of), now, wall, silent)
            self._awaits(of)
            self.refresh()
        elif wait.of != list(of):
            self._awaits(of)
        wait.of, wait.silent = list(of), silent
        seconds = now - wait.since
        if seconds >= NEWS:
            if not wait.told:
                wait.told = True
                fields = {"for": what, "of": wait.of, "seconds": round(seconds, 3)}
                self._folder.log("waiting-begins", **fields)
            entries = self._peers.entries(now)
            how = "; ".join(f"{peer}: {link_words(entries[peer])}" for peer in wait.of)
            self._progress.on_waiting(wait.words, seconds, how)
        self.tick()

    def waited(self) -> None:
        """All that was awaited is there."""
        wait, self._wait = self._wait, None
        if wait is not None:
            self._awaits(())
        if wait is not None and wait.told:
            seconds = round(self._clock() - wait.since, 3)
            fields = {"for": wait.what, "of": wait.of, "seconds": seconds}
            self._folder.log("waiting-ends", **fields)
            self._progress.on_phase(self._in_words())
        self.tick()

    def _awaits(self, of: Sequence[str]) -> None:
        """Tell peers for whose word this party waits: it is not to blame for the wait."""
        if not self._link.closed:
            self._link.status(self._phase, self._exchange, 0, 0, awaits=tuple(of))

    def tick(self) -> None:
        """Say on the screen what the link's thread heard; refresh status.json when due."""
        for peer, text in self._peers.lines():
            self._progress.on_peer(peer, text)
        if self._clock() - self._written >= REFRESH:
            self.refresh()

    def released(self, offer: Offer, *, again: bool, scaled: float | None = None) -> None:
        """What ``offer`` describes may leave now; ``again``: before a restart it already might.
        ``scaled``: the factor by which it was shortened; None: it was not."""
        if scaled is not None:
            self._progress.say(
                f"round {offer.round}: own update shortened to {scaled:.3f} of its length to fit "
                "max_update_norm"
            )
            self._folder.log("shortened", round=offer.round, factor=scaled)
        root, size = offer.manifest.root, offer.manifest.total
        fields = {"round": offer.round, "kind": offer.kind, "root": root, "bytes": size}
        self._folder.log("released", **fields, again=again)
        self.spent()

    def spent(self) -> None:
        """Look up what all that may have left has cost."""
        kinds = self._folder.ledger.kinds()
        self._epsilon = self._spending.epsilon(kinds) if kinds else None

    def judged(
        self,
        round: int,
        what: str,
        admitted: Iterable[str],
        excluded: Mapping[str, str],
        updates: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """The verdicts on what everybody released, the own included; ``updates``: how they lie to
        each other, which has no part in the verdicts."""
        for party in sorted(admitted):
            self._folder.log("admitted", round=round, peer=party, **updates.get(party, {}))
        for party, reason in sorted(excluded.items()):
            self.say(f"round {round}: {what} of {party} excluded: {reason}")
            self._folder.log("excluded", round=round, peer=party, reason=reason)

    def heard_out(self, trained: Trained) -> Trained:
        """``trained`` with the evidence that belongs to its judgement."""
        return replace(trained, judgement=self.judgement(trained.judgement))

    def judgement(self, found: dict[str, Any] | None) -> dict[str, Any] | None:
        """What the acceptance test found of the newest merge, for the log; an alarm is told, and
        comes back with its evidence in its place.

        Args:
            found: see :attr:`~splitfed.rounds.learner.Trained.judgement`; ``alarm`` is its reason
                or None.
        """
        if found is None:
            return None
        # No two fusions come one after the other: of the last two, one is an update.
        rows = [r for r in self._folder.history(last=2) if r.get("kind", UPDATE) == UPDATE]
        figures = {key: found[key] for key in ("difference", "bound", "images", "bad")}
        self._folder.log("judged", round=rows[-1]["round"], **figures)
        if found["alarm"] is None:
            return found
        alarm = alarm_of(found, rows[-1], self._link.peers_status())
        self.say(f"ALARM: {alarm['reason']}")
        self._folder.log("alarm", **alarm)
        return {**found, "alarm": alarm}

    def alone(self, exchange: int, reason: str) -> None:
        """From ``exchange`` on this party trains without its peers."""
        self._alone = reason
        self.say(f"finishing alone: {reason}")
        self._folder.log("alone", round=exchange, reason=reason)

    def say(self, text: str) -> None:
        """One line that should not be missed."""
        self._progress.say(text)

    # --- any thread --------------------------------------------------------------------

    def refresh(self) -> None:
        """Write status.json as things stand now."""
        with self._guard:
            self._written = self._clock()
            self._folder.set_status(self._row(self._written))

    def __enter__(self) -> Self:
        self.refresh()
        self._thread = threading.Thread(target=self._beat, name="splitfed status", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self.refresh()

    # --- inside ------------------------------------------------------------------------

    def _beat(self) -> None:
        while not self._stop.wait(REFRESH):
            self.refresh()

    def _in_words(self) -> str:
        return f"round {self._round}: {self._phase}" if self._round else self._phase

    def _row(self, now: float) -> dict[str, Any]:
        wait, steps = self._wait, self._steps
        return {
            **self._fixed,
            "phase": self._phase if wait is None else "waiting",
            "round": self._round,
            "step": steps[0] if steps else None,
            "steps": steps[1] if steps else None,
            "since_progress_s": passed(now, self._moved),
            "waiting": None if wait is None else self._waiting(wait, now),
            "peers": self._peers.entries(now),
            "epsilon": self._epsilon,
            "budget": self._spending.standing,
            "link": "closed" if self._link.closed else "open",
            "alone": self._alone or None,
            "ended": None,
        }

    def _waiting(self, wait: _Wait, now: float) -> dict[str, Any]:
        left = None
        if self._patience:
            left = max(self._patience - max(wait.silent.values(), default=0.0), 0.0)
        return {
            "for": wait.what,
            "of": wait.of,
            "since": wait.since_wall,
            "seconds": passed(now, wait.since),
            "patience_left_s": None if left is None else round(left, 1),
        }
