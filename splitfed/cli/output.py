"""Text for people and for programs: tables, sizes, JSON, and nothing that moves a cursor."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The console for results. Output that is no terminal's gets long lines and no colour."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 160
    return Console(width=width, highlight=False, markup=False, emoji=False, soft_wrap=True)


def say(*lines: str) -> None:
    """Lines on stdout."""
    for line in lines:
        print(line, flush=True)


def say_json(value: Any) -> None:
    """One JSON document on stdout, for a program to read."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False), flush=True)


def printable(text: str, keep: str = "") -> str:
    """``text`` without control characters: a peer's words must not drive our terminal."""
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


def size(count: float) -> str:
    """Bytes in a readable unit: 1,536 is ``1.5 KiB``."""
    if count < 1024:
        return f"{int(count)} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024 or unit == "GiB":
            return f"{count:,.1f} {unit}"
    raise AssertionError("unreachable")


def seconds(value: float | None) -> str:
    """Seconds, or minutes and seconds from two minutes on; an en dash where not measured."""
    if value is None:
        return "–"
    if value >= 120:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def percent(value: float | None) -> str:
    """A fraction as per cent; an en dash where it was not measured."""
    return "–" if value is None else f"{100 * value:.1f} %"


def columns(rows: Iterable[Sequence[str]], right: Iterable[int] = (), indent: str = "  ") -> str:
    """Rows aligned under each other, at least two spaces apart; ``right`` aligns right."""
    rows = [list(row) for row in rows]
    if not rows:
        return ""
    right = set(right)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if i in right else text.ljust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append((indent + "  ".join(cells)).rstrip())
    return "\n".join(lines)
