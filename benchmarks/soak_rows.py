"""Rows of the soak's answer: what was asked, what was wanted, what was measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One demand of the soak: its words, the figures wanted and measured, and whether it is met."""

    what: str
    wanted: str
    measured: str
    met: bool


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, one line each, in the order given."""
    lines = ["| what | wanted | measured | met |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.what, row.wanted, row.measured, "yes" if row.met else "NO")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def told(rows: Sequence[Row], began: float) -> int:
    """Print the rows and the seconds since ``began`` (monotonic); the exit code that they mean."""
    print(table(rows))
    print(f"\n{time.monotonic() - began:.0f} s", flush=True)
    return 0 if all(row.met for row in rows) else 1
