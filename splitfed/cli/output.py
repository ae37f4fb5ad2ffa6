"""Text for people and for programs, and nothing that moves a cursor by itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def say(*lines: str) -> None:
    """Lines on stdout."""
    for line in lines:
        print(line, flush=True)


def say_json(value: Any) -> None:
    """One JSON document on stdout, for a program to read."""
    say(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def say_tables(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """The comparison table: drawn in a terminal, one fact a line elsewhere."""
    from splitfed.report import console_table, plain_lines

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(console_table(reports))
    else:
        say(*plain_lines(reports))


def printable(text: str, keep: str = "") -> str:
    """``text`` without control characters: a peer's words must not drive our terminal."""
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


def columns(rows: Iterable[Sequence[str]], right: Iterable[int] = (), indent: str = "  ") -> str:
    """Rows aligned under each other, at least two spaces apart; ``right`` aligns right."""
    table = [list(row) for row in rows]
    if not table:
        return ""
    to_right = set(right)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = []
    for row in table:
        cells = [
            text.rjust(width) if i in to_right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
