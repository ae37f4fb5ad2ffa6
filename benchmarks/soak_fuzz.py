"""Spoilt frames by the million: at the decoder, and through a live session.

Seeded mutations of valid frames of every type (bits, holes, cuts, repetitions, wrong numbers,
absurd lengths, deep nesting, the end of another frame) and random bytes. Each is given to the
decoder and then to a party in session with a peer whose key is valid, with half a payload here.
Wanted: no exception but the library's own refusal; nothing reaches the app and no payload on its
way changes; memory does not grow. A violation ends a session, so most frames meet a new one.

--quick: 20,000 frames.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from soak_rows import Row, table
from splitfed.errors import SplitfedError
from tests.support.fuzz import Live, corpus, decoded, shots

SEED = 11
FRAMES, QUICK = 1_000_000, 20_000
WARM = 2_000  # frames before memory is first looked at
GROWTH_MIB = 64.0
_PAGE_MIB = 4096 / (1 << 20)


@dataclass
class Found:
    """What spoilt frames did."""

    frames: int = 0
    taken: int = 0
    sessions: int = 0
    crashes: Counter[str] = field(default_factory=Counter)
    changes: list[str] = field(default_factory=list)
    growth_mib: float = 0.0
    seconds: float = 0.0


def fuzz(count: int) -> Found:
    """Give ``count`` spoilt frames to the decoder and to a live session."""
    found, frames, live = Found(), corpus(), Live()
    began, resident = time.monotonic(), 0.0
    for number, shot in enumerate(shots(SEED, count, frames)):
        try:
            found.taken += decoded(shot)
            live.throw(shot)
        except (Exception, SystemExit) as error:
            if isinstance(error, SplitfedError):
                error.add_note("an error of the library, but not one that ends the peer alone")
            told = traceback.format_exc(limit=-2)
            found.crashes[told] += 1
            live = _next(live)
        if number == WARM:
            resident = _resident_mib()
        elif number > WARM and number % 20_000 == 0:
            found.growth_mib = max(found.growth_mib, _resident_mib() - resident)
    gc.collect()
    found.growth_mib = max(found.growth_mib, _resident_mib() - resident)
    found.frames, found.sessions, found.changes = count, live.sessions, live.forged
    found.seconds = time.monotonic() - began
    return found


def measure(quick: bool) -> list[Row]:
    """The soak's rows about spoilt frames."""
    found = fuzz(QUICK if quick else FRAMES)
    for told, times in found.crashes.most_common(5):
        print(f"{times} x {told}", file=sys.stderr)
    for told in found.changes[:5]:
        print(told, file=sys.stderr)
    crashes = found.crashes.total()
    return [
        Row(
            f"{found.frames:,} spoilt frames at the decoder and in {found.sessions:,} live "
            f"sessions ({found.taken:,} decoded; {found.seconds:.0f} s)",
            "no crash",
            f"{crashes} crashes",
            crashes == 0,
        ),
        Row(
            "the same: what reached the app, or changed on its way",
            "nothing",
            f"{len(found.changes)} changes",
            not found.changes,
        ),
        Row(
            "the same: growth of resident memory",
            f"<= {GROWTH_MIB:.0f} MiB",
            f"{found.growth_mib:.1f} MiB",
            found.growth_mib <= GROWTH_MIB,
        ),
    ]


def _next(live: Live) -> Live:
    fresh = Live()
    fresh.sessions += live.sessions
    fresh.forged += live.forged
    return fresh


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE_MIB


def main() -> int:
    """Measure, print the table, and fail if anything is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK:,} frames")
    rows = measure(parser.parse_args().quick)
    print(table(rows))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
