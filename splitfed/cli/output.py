"""Text for people and for programs, and nothing that moves a cursor by itself."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO


def say(*lines: str) -> None:
    """Lines on stdout; long ones broken between words where that is a terminal."""
    for line in lines:
        print(fitted(line, terminal_width(sys.stdout)), flush=True)


def say_json(value: Any) -> None:
    """One JSON document on stdout, for a program to read."""
    print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), flush=True)


def say_tables(reports: Mapping[str, Mapping[str, Any]]) -> None:
    """The comparison table: drawn in a terminal, one fact a line elsewhere."""
    from splitfed.report import console_table, plain_lines

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(console_table(reports))
    else:
        say(*plain_lines(reports))


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal that ``stream`` is; None for a file, a pipe or a log."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def fitted(text: str, width: int | None) -> str:
    """``text`` with lines longer than ``width`` broken between words, and what follows under the
    line's second column, if it has one near, or a little to the right of its beginning.

    Words are never broken, so paths and keys can be copied. Without a width nothing changes.

    >>> print(fitted("now  round 3 of 4, waiting", 20))
    now  round 3 of 4,
         waiting
    """
    if width is None:
        return text
    return "\n".join(_broken(line, width) for line in text.split("\n"))


def _broken(line: str, width: int) -> str:
    if len(line) <= width:
        return line
    start = len(line) - len(line.lstrip())
    column = re.match(r" *\S+(?: \S+)*  +(?=\S)", line)
    if column is not None and column.end() <= width // 2:
        hang = column.end()
    else:  # a further row of a table goes on in its column
        hang = start if start >= 8 else start + 2
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * hang,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


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
