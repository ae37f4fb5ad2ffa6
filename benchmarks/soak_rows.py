"""Rows of the soak's answer: what was asked, what was wanted, what was measured."""

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
