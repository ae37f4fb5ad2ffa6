"""Three to five honest parties that die, dawdle and lose each other, in federations by seed.

Round engines in one process over links in memory, learners that only add, and a clock that runs
twenty times as fast. A seed says how many parties there are, whether they fuse, how long their
patience is, and what goes wrong: power cuts at durable points, trainings that last until others
have gone on, links that are cut for a while or just break. Whoever is down is started again.

Wanted: all end as done with equal tensors, which are the means of what was counted; no exchange is
closed on two outcomes; nobody is quarantined, there is no evidence, and nobody signs two things of
which there is one. A majority whose members run and reach each other goes on.

A seed that fails is printed with its faults, and is run alone with

    python benchmarks/soak_views.py --seed 17 --federations 1

Threads take turns as they like: it may take some tries until it fails again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from soak_rows import Row, told
from tests.support.storm import Outcome, Storm
from tests.support.weather import weather_of

SEED = 1000
FEDERATIONS, FEW = 400, 16
AT_ONCE = 2
"""Federations at a time. On the fast clock whoever lacks a processor for a moment was silent for
long: with many, what is measured is that."""


def federation(seed: int) -> Outcome:
    """The federation of a seed; what is wrong is printed."""
    weather = weather_of(seed)
    with tempfile.TemporaryDirectory() as folder:
        try:
            outcome = Storm(Path(folder), weather).run()
        except Exception:
            outcome = Outcome(found=[traceback.format_exc()])
    if outcome.stalled:
        _say(f"a majority closed nothing for long, {outcome.stalled} times, under\n{weather}")
    if outcome.found:
        _say("\n".join([*outcome.found, f"under\n{weather}", f"alone: {alone(seed)}"]))
    return outcome


def alone(seed: int) -> str:
    """The command that runs the federation of a seed."""
    return f"python benchmarks/soak_views.py --seed {seed} --federations 1"


def rows_of(seed: int, count: int) -> list[Row]:
    """Run ``count`` federations from ``seed`` on."""
    torch.set_num_threads(1)
    with ThreadPoolExecutor(min(AT_ONCE, count)) as workers:
        outcomes = list(workers.map(federation, range(seed, seed + count)))
    return table_of(outcomes)


def table_of(outcomes: Sequence[Outcome]) -> list[Row]:
    """What the outcomes say."""
    count = len(outcomes)
    good = sum(not outcome.found for outcome in outcomes)
    rounds, split, out, stalled, views = (
        sum(outcome.rounds for outcome in outcomes),
        sum(outcome.split for outcome in outcomes),
        sum(outcome.quarantined for outcome in outcomes),
        sum(outcome.stalled for outcome in outcomes),
        max(outcome.most_views for outcome in outcomes),
    )
    seen = sum((outcome.seen for outcome in outcomes), Counter[str]())
    name = "three to five honest parties in bad weather"
    return [
        Row(
            f"{name}: federations that end as done, with equal tensors",
            f"{count} of {count}",
            f"{good} of {count} ({seen['Crash']} deaths, {seen['Part']} links cut for a while, "
            f"{seen['Dawdle'] + seen['Nap']} slow trainings, {seen['view']} times in a view, "
            f"{seen['PeerUnreachable']} starts after too few were left)",
            good == count,
        ),
        Row(f"{name}: rounds closed on two outcomes", "0", f"{split} of {rounds}", split == 0),
        Row(f"{name}: parties quarantined", "0", f"{out}", out == 0),
        Row(
            f"{name}: a majority that lacks nothing closes nothing for more than ten times its "
            "patience",
            "never",
            f"{stalled} times",
            stalled == 0,
        ),
        Row(f"{name}: most views in one round", "—", f"{views}", True),
    ]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(quick: bool, seed: int = SEED) -> list[Row]:
    """All rows of the views."""
    return rows_of(seed, FEW if quick else FEDERATIONS)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED, help="of the first federation")
    parser.add_argument("--federations", type=int, default=FEDERATIONS)
    options = parser.parse_args()
    began = time.monotonic()
    return told(rows_of(options.seed, options.federations), began)


if __name__ == "__main__":
    sys.exit(main())
