"""Figures as people read them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any


def prose(docstring: str | None) -> str:
    """A docstring as help text: each paragraph one line, so that the terminal breaks it.

    >>> prose("Do it.\\n\\n    At once,\\n    and well.")
    'Do it.\\n\\nAt once, and well.'
    """
    paragraphs = inspect.cleandoc(docstring or "").split("\n\n")
    return "\n\n".join(" ".join(it.split()) for it in paragraphs)


def size(count: int) -> str:
    """Bytes with a binary unit.

    >>> size(512), size(75264), size(3 << 30)
    ('512 B', '73.5 KiB', '3.0 GiB')
    """
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def whole_round(row: Mapping[str, Any]) -> str:
    """A history row in one line."""
    fused = row.get("kind", "update") != "update"
    what = "fusion after round" if fused else "round"
    parts = [f"{what} {row['round']}: {row['outcome']}"]
    if row["outcome"] == "missed":  # nothing was trained, sent or spent
        return f"{parts[0]}, the others went on without this party; taken over"
    if row["train_loss"] is not None:
        parts.append(f"loss {row['train_loss']:.4f}")
    if row["validation_accuracy"] is not None:
        parts.append(f"validation accuracy {row['validation_accuracy']:.1%}")
    parts.append(f"sent {size(row['bytes_sent'])}, received {size(row['bytes_received'])}")
    spent = row["epsilon"]
    parts.append("no privacy" if spent is None else f"epsilon {up(spent)}")
    times = f"train {row['train_s']:.1f} s, exchange {row['exchange_s']:.2f} s"
    parts.append(f"{times}, wait {row['wait_s']:.1f} s")
    return ", ".join(parts)


def up(epsilon: float) -> str:
    """An epsilon rounded up: never told smaller than it is.

    >>> up(2.301)
    '2.31'
    """
    return f"{math.ceil(epsilon * 100) / 100:.2f}"
