"""What a federation has to survive, at full length: kills, changing members, cuts, a black hole,
fuzz, strangers.

Hours in all; ``--quick`` shows in minutes that every part works, and no more than that. Ends
with code 1 if anything asked for is not met.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module

from measuring import machine
from soak_rows import Row, told

PARTS = {
    "kills": ("soak_kills", "measure"),
    "views": ("soak_views", "measure"),
    "cuts": ("soak_cuts", "measure_cuts"),
    "hole": ("soak_cuts", "measure_hole"),
    "fuzz": ("soak_fuzz", "measure"),
    "strangers": ("soak_strangers", "measure"),
}
"""Module and function of each part: only what is measured is imported."""


def part(name: str) -> Callable[[bool], Sequence[Row]]:
    """The function that measures a part; its argument is whether it has to be quick."""
    module, function = PARTS[name]
    found: Callable[[bool], Sequence[Row]] = getattr(import_module(module), function)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all if none is named"
    )
    parser.add_argument("--quick", action="store_true", help="minutes instead of hours")
    options = parser.parse_args()
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        parser.error(f"no part named {', '.join(unknown)}: there are {', '.join(PARTS)}")
    print(f"machine: {json.dumps(machine())}", flush=True)
    met = True
    for name in options.parts or PARTS:
        began = time.monotonic()
        print(f"\n## {name}\n", flush=True)
        met = told(part(name)(options.quick), began) == 0 and met
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
