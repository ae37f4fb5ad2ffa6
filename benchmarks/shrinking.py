"""Making a failing list of faults as short as it can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

Item = TypeVar("Item")


def shrink(items: Sequence[Item], fails: Callable[[list[Item]], bool]) -> list[Item]:
    """The shortest list that delta debugging finds and that still fails (Zeller and
    Hildebrandt, 2002): halves are left out first, then quarters, in the end single items, so
    that no item of the result can be left out alone.

    Args:
        items: a list that fails.
        fails: whether a list does. Asked some n log n times, n² at worst.
    """
    found, size = list(items), max(1, len(items) // 2)
    while True:
        start, shorter = 0, False
        while start < len(found):
            without = found[:start] + found[start + size :]
            if fails(without):
                found, shorter = without, True
            else:
                start += size
        if size == 1 and not shorter:
            return found
        size = max(1, size // 2)
