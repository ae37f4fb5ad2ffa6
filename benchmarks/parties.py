"""What more parties cost each of them: the demo's setting with 2, 4 and 8 real processes.

All parties together train on the same 2,000 digits, whatever their number, while every party
sends its update to N - 1 others and takes in as many. Measured by each party's own report:
the seconds of a round that are neither training nor waiting for a peer that trains nor
evaluation (``exchange_s``), in the middle over parties and rounds, the first round left out.
Wanted: they grow no faster than N - 1.

The processes share this machine's cores: with more parties than cores each also waits for the
others' work, which at an institution of its own it would not have to.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from measuring import arguments, middle, now, publish, take_turns
from splitfed.demo import make_parties, run_together
from splitfed.progress import Silent
from splitfed.report import read_report

COUNTS = (2, 4, 8)
ROUNDS = 6
TIMES = ("train_s", "exchange_s", "wait_s", "evaluate_s")


def measure(parties: int) -> dict[str, Any]:
    """Run ``parties`` processes to their end, made and started by a process of its own, so that
    torch is not loaded in this one: what their reports say."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_measure, parties).result()


def _measure(parties: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="splitfed-") as folder:
        out = Path(folder) / "demo"
        files = make_parties(out, rounds=ROUNDS, split="skew", privacy="none", parties=parties)
        began = now()
        if code := run_together(files, out, lambda name: Silent()):
            raise RuntimeError(f"{parties} parties: a run ended with exit code {code}")
        wall = now() - began
        reports = [read_report(out / name) for name in files]
    rows = [row for report in reports for row in report["history"] if row["round"] > 1]
    return {
        "parties": parties,
        "wall_s": wall,
        "start_s": middle([report["time"]["start_s"] for report in reports]),
        **{key: middle([row[key] for row in rows]) for key in TIMES},
        "sent_bytes": middle([row["bytes_sent"] for row in rows]),
    }


def main() -> None:
    options = arguments("what more parties cost each of them").parse_args()
    turns = take_turns(options.times, {str(n): partial(measure, n) for n in COUNTS})
    found = {
        n: {key: middle([turn[key] for turn in turns[str(n)]]) for key in turns[str(n)][0]}
        for n in COUNTS
    }
    first = found[COUNTS[0]]["exchange_s"]
    growth = {n: found[n]["exchange_s"] / first for n in COUNTS}
    rows = [
        [
            f"{n}",
            f"{it['exchange_s']:.3f} s",
            f"{growth[n]:.2f}",
            f"≤ {n - 1}",
            f"{it['train_s']:.2f} s",
            f"{it['sent_bytes'] / 1024:.1f} KiB",
            f"{it['wall_s']:.0f} s",
        ]
        for n, it in found.items()
    ]
    publish(
        "parties",
        options.out,
        ["parties", "exchange", "times that of 2", "wanted", "training", "sent", "all"],
        rows,
        {"turns": turns, "growth": growth, "met": all(growth[n] <= n - 1 for n in COUNTS)},
    )


if __name__ == "__main__":
    main()
