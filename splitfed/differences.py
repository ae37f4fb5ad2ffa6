"""Two JSON documents side by side: only the fields on which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from splitfed.errors import Difference

ABSENT = "(absent)"
_SHOWN = 200
_DEEPEST = 16


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The fields on which two documents differ, keys dotted and sorted.

    Objects are walked into; lists are compared and shown whole, since their order is part
    of what is agreed. Values are shown as JSON, which also makes a stranger's control
    characters harmless, and cut at 200 characters.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    (Difference(key='a.c', mine='2', theirs='3'),)
    """
    left, right = dict(_flatten(mine)), dict(_flatten(theirs))
    return tuple(
        Difference(key, _cut(left.get(key, ABSENT)), _cut(right.get(key, ABSENT)))
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key)
    )


def _flatten(
    document: Mapping[str, Any], prefix: str = "", depth: int = 1
) -> Iterator[tuple[str, str]]:
    for key, value in document.items():
        name = prefix + json.dumps(key)[1:-1]
        if isinstance(value, Mapping) and value and depth < _DEEPEST:
            yield from _flatten(value, name + ".", depth + 1)
        else:
            yield name, json.dumps(value, sort_keys=True)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
