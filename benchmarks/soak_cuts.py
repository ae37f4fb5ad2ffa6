"""A network that breaks: 1,000 cuts under an exchange, and ten minutes of silence.

Cuts: two parties with 64 MiB of shared tensors and a 4 MiB window, round engines, disks and
ZeroMQ as in a real run, a learner that only adds a constant. In each round ten cuts happen at
exact bytes of the transfers, five each way, and ten while nothing is transferred, half of
those between vote and close. FIN, RST and a corrupted byte take turns. Wanted: every round
closed once by both, g right to the last bit, and no more than two windows of payload sent
again per cut.

Silence: the same two parties with the product's own heartbeats and reconnection times. In
the middle of a transfer the network swallows everything, ten minutes long, and takes new
connections without a word; at its end all that was under way is lost. Wanted: new payload
within 10 s; when the round is closed is told as well.

--quick: 40 cuts of smaller tensors, and five seconds of silence with short heartbeats.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from measuring import MIB
from soak_rows import Row, table
from splitfed.transport.sockets import WireOptions
from tests.support.crossing import Crossing
from tests.support.proxy import Proxy, Way

SEED = 5
PER_ROUND = 20  # half of them at exact bytes of the transfers
GIVE_UP = 6 * 3600.0
WITHIN = 10.0
QUICK_BEATS = replace(WireOptions(), heartbeat_interval=0.3, heartbeat_timeout=1.5)


@dataclass
class Cutter:
    """Cuts as planned, told by the parties' learners where their rounds stand.

    Attributes:
        fired: cuts by kind.
        back: seconds from each cut outside a transfer to the new session.
        worst: payload sent again in one round, divided by that round's cuts.
    """

    crossing: Crossing
    window: int
    chance: random.Random
    fired: dict[str, int] = field(default_factory=dict)
    back: list[float] = field(default_factory=list)
    worst: float = 0.0
    _both: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    _before: int = 0

    def at_a(self, moment: str, round: int) -> None:
        """Alone in charge of the network while both parties wait for it."""
        if moment == "validate":
            self._cut_now(PER_ROUND // 4)
            return
        self._both.wait(GIVE_UP)
        self.account(round)
        self._cut_now(PER_ROUND // 4)
        self._place()
        self._both.wait(GIVE_UP)

    def at_b(self, moment: str, round: int) -> None:
        """Waits until the faults of the round are in place."""
        if moment == "train":
            self._both.wait(GIVE_UP)
            self._both.wait(GIVE_UP)

    def account(self, round: int) -> None:
        """Note what the rounds before ``round`` sent again."""
        sent = sum(link.traffic().payload_sent for link in self.crossing.links.values())
        again = sent - 2 * (round - 1) * self.crossing.size
        self.worst = max(self.worst, (again - self._before) / PER_ROUND)
        self._before = again

    def _proxy(self) -> Proxy:
        assert self.crossing.proxy is not None
        return self.crossing.proxy

    def _cut_now(self, count: int) -> None:
        for _ in range(count):
            self.crossing.until(self.crossing.connected, GIVE_UP)
            before, began = self.crossing.sessions(), time.monotonic()
            fin = self.chance.random() < 0.5
            cut = self._proxy().cut() if fin else self._proxy().reset()
            self._note("FIN" if fin else "RST", cut)
            self.crossing.until(partial(self._anew, before), GIVE_UP)
            self.back.append(time.monotonic() - began)

    def _anew(self, before: Sequence[int]) -> bool:
        """Whether each party has had a session since it had ``before`` of them."""
        now = self.crossing.sessions()
        return all(new > old for new, old in zip(now, before, strict=True))

    def _place(self) -> None:
        ways: tuple[Way, Way] = ("up", "down")
        for number in range(PER_ROUND // 2):
            way = ways[number % 2]
            place = self.chance.randrange(self.crossing.size)
            kind = self.chance.choice(("RST", "RST", "FIN", "FIN", "corrupt"))
            if kind == "corrupt":
                self._proxy().corrupt(place, way)
            else:
                self._proxy().cut_after(place, way, reset=kind == "RST")
            self._note(f"{kind} in a transfer", 1)

    def _note(self, kind: str, count: int) -> None:
        self.fired[kind] = self.fired.get(kind, 0) + count


def measure_cuts(quick: bool) -> list[Row]:
    """Cut and count; see the module's text."""
    size, window, rounds = (16 * MIB, 2 * MIB, 2) if quick else (64 * MIB, 4 * MIB, 50)
    with tempfile.TemporaryDirectory() as folder:
        crossing = Crossing(Path(folder), size, rounds, WireOptions(), link={"window": window})
        cutter = Cutter(crossing, window, random.Random(SEED))
        crossing.hooks = {"a": cutter.at_a, "b": cutter.at_b}
        began = time.monotonic()
        try:
            proxy = crossing.meet()
            crossing.finish(GIVE_UP)
            seconds = time.monotonic() - began
            cutter.account(rounds + 1)
            unfired = proxy.pending
            again = crossing.repeated()
            made = crossing.sessions()
        finally:
            crossing.close()
    cuts = sum(cutter.fired.values()) - unfired
    back = sorted(cutter.back)
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(cutter.fired.items()))
    name = f"{cuts} link cuts ({size // MIB} MiB shared, {window / MIB:g} MiB window)"
    return [
        Row(
            f"{name}: rounds",
            f"{rounds} of {rounds}, equal g",
            f"{rounds} of {rounds}, g exact on both sides, {seconds:.0f} s ({kinds}; "
            f"{made[0]} new sessions)",
            unfired == 0,
        ),
        Row(
            f"{name}: payload sent again",
            "≤ 2 windows per cut",
            f"{again / cuts / window:.2f} windows per cut, {cutter.worst / window:.2f} in the "
            f"worst round; {again / MIB:.0f} MiB of {2 * rounds * size / MIB:.0f}",
            again <= 2 * window * cuts and cutter.worst <= 2 * window,
        ),
        Row(
            f"{name}: back in session",
            "—",
            f"median {back[len(back) // 2]:.2f} s, slowest {back[-1]:.2f} s",
            True,
        ),
    ]


def measure_hole(quick: bool) -> list[Row]:
    """Fall silent in a transfer, wait, and time the return."""
    seconds = 5.0 if quick else 600.0
    size = 4 * MIB if quick else 64 * MIB
    options = QUICK_BEATS if quick else WireOptions()
    ready = threading.Event()
    trained = threading.Barrier(2)
    chance = random.Random(SEED)
    closed: list[float] = []

    with tempfile.TemporaryDirectory() as folder:
        crossing = Crossing(Path(folder), size, 3, options)

        def hook(moment: str, round: int) -> None:
            if moment == "train" and round == 2:
                # In the middle of round 2's transfers, whoever is first.
                if trained.wait(GIVE_UP) == 0:
                    assert crossing.proxy is not None
                    crossing.proxy.black_hole_after(chance.randrange(size), "down")
                    ready.set()
                trained.wait(GIVE_UP)
            elif moment == "validate" and round == 2:
                closed.append(time.monotonic())

        crossing.hooks = {"a": hook, "b": hook}
        try:
            proxy = crossing.meet()
            crossing.until(lambda: ready.is_set() and proxy.pending == 0, 300.0)
            time.sleep(seconds)  # this is what is measured
            assert not closed, "the silence came too late"
            silent = [link.traffic().payload_received for link in crossing.links.values()]
            broken = not crossing.connected()
            proxy.reset()  # whatever was under way is lost, attempts to connect too
            proxy.heal()
            healed = time.monotonic()
            crossing.until(crossing.connected, 120.0)
            session = time.monotonic() - healed

            def received() -> bool:
                links = zip(crossing.links.values(), silent, strict=True)
                return any(link.traffic().payload_received > before for link, before in links)

            crossing.until(received, 120.0)
            payload = time.monotonic() - healed
            crossing.until(lambda: len(closed) == 2, 300.0)
            crossing.finish(300.0)
        finally:
            crossing.close()
    name = f"a black hole of {seconds:g} s in a transfer"
    return [
        Row(
            f"{name}: the run goes on",
            f"within {WITHIN:g} s",
            f"session after {session:.2f} s, new payload after {payload:.2f} s, round closed "
            f"after {max(closed) - healed:.2f} s",
            payload <= WITHIN and broken,
        )
    ]


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__))
    parser.add_argument("--quick", action="store_true", help="little of everything")
    quick = bool(parser.parse_args().quick)
    for measure in (measure_cuts, measure_hole):
        print(table(measure(quick)), flush=True)


if __name__ == "__main__":
    main()
