"""Two JSON documents side by side: only the fields on which they differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from splitfed.errors import ABSENT, Difference

_SHOWN = 200
_BEFORE = 20
_DEEPEST = 16


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The fields on which two documents differ, keys dotted and sorted.

    Objects are walked into; lists are compared and shown whole, since their order is part
    of what is agreed. Values are shown as JSON, which also makes a stranger's control
    characters harmless, and cut to 200 characters around the first that differs.

    >>> differences({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}})
    (Difference(key='a.c', mine='2', theirs='3'),)
    """
    left, right = dict(_flatten(mine)), dict(_flatten(theirs))
    return tuple(
        Difference(key, *_cut(left.get(key, ABSENT), right.get(key, ABSENT)))
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


def _cut(one: str, other: str) -> tuple[str, str]:
    """Both values, each cut to where they first differ if that lies beyond what is shown."""
    pairs = enumerate(zip(one, other, strict=False))
    differ = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = differ - _BEFORE if differ + _BEFORE > _SHOWN else 0
    return _shown(one, start), _shown(other, start)


def _shown(text: str, start: int) -> str:
    end = start + _SHOWN
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
