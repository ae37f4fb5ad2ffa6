"""From process start to ready for the first step, beside ``import torch`` alone.

The first is ``start_s`` of a real run's report, both parties starting at once; the second is
measured on two interpreters that start at once as well, so that both pay for sharing the machine.
Wanted: start_s <= import torch + 1.5 s, in the same run.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import arguments, middle, now, publish, take_turns
from pair import run_pair

ALLOWANCE = 1.5  # seconds
_IMPORT = "import time, torch; print(time.monotonic())"


def import_torch() -> dict[str, Any]:
    """Seconds from starting two interpreters to the end of ``import torch`` in each."""
    began = now()
    started = [
        subprocess.Popen([sys.executable, "-c", _IMPORT], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    return {"seconds": [float(process.communicate()[0]) - began for process in started]}


def start_pair() -> dict[str, Any]:
    """``start_s`` of both parties of a run of one round."""
    with tempfile.TemporaryDirectory() as folder:
        return {"seconds": [x.report["time"]["start_s"] for x in run_pair(Path(folder), 1)]}


def main() -> None:
    options = arguments("time to the first step against import torch").parse_args()
    start_pair()  # fills the page cache, the digits' cache and __pycache__
    turns = take_turns(options.times, {"import torch": import_torch, "run": start_pair})
    seconds = {name: [max(turn["seconds"]) for turn in each] for name, each in turns.items()}
    torch_s, start_s = middle(seconds["import torch"]), middle(seconds["run"])
    over = middle([a - b for a, b in zip(seconds["run"], seconds["import torch"], strict=True)])
    rows = [
        ["import torch, two at once", f"{torch_s:.2f} s", ""],
        ["ready for the first step, two at once", f"{start_s:.2f} s", ""],
        ["over import torch, in the same turn", f"{over:.2f} s", f"≤ {ALLOWANCE} s"],
    ]
    publish(
        "startup",
        options.out,
        ["slower of two, median", "measured", "wanted"],
        rows,
        {"turns": turns, "over_s": over, "wanted_s": ALLOWANCE, "met": over <= ALLOWANCE},
    )


if __name__ == "__main__":
    main()
