"""Canonical form, digest and comparison of the agreement's documents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import blake3

from splitfed.errors import Difference

ABSENT = "(absent)"
SHOWN = 200
"""Characters of a differing value that are shown."""


def canonical_json(document: Any) -> bytes:
    """The one JSON text of ``document``: keys sorted, no spaces, UTF-8, finite numbers only."""
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_of(kind: str, document: Any) -> bytes:
    """BLAKE3, 32 bytes, of a document's canonical JSON; ``kind`` keeps kinds apart."""
    return blake3.blake3(f"splitfed {kind} v1\0".encode() + canonical_json(document)).digest()


def differences(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The fields on which two documents differ, keys dotted and sorted.

    Safe to print: ``theirs`` comes from a peer, so all text is escaped to ASCII and cut
    (to where the two first differ, so that a long value still shows its difference).
    """
    left, right = _flat(mine), _flat(theirs)
    found = []
    for path in sorted(left.keys() | right.keys()):
        one, other = left.get(path, ABSENT), right.get(path, ABSENT)
        if one != other:
            start = _first_difference(one, other)
            found.append(Difference(_cut(".".join(path), 0), _cut(one, start), _cut(other, start)))
    return tuple(found)


def _flat(document: Mapping[str, Any]) -> dict[tuple[str, ...], str]:
    """Path to JSON text. Iterative: a peer's document may be nested deeply."""
    flat: dict[tuple[str, ...], str] = {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), document)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, Mapping) and value:
            for name, inner in value.items():
                pending.append(((*path, json.dumps(str(name))[1:-1]), inner))
        else:
            try:
                flat[path] = json.dumps(value, sort_keys=True)
            except RecursionError:
                flat[path] = "(nested too deeply)"
    return flat


def _first_difference(one: str, other: str) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _cut(text: str, start: int) -> str:
    """At most ``SHOWN`` characters of ``text``, from a little before ``start`` if need be."""
    if len(text) <= SHOWN:
        return text
    begin = max(0, start - SHOWN // 4) if start > SHOWN * 3 // 4 else 0
    end = begin + SHOWN
    return ("..." if begin else "") + text[begin:end] + ("..." if end < len(text) else "")
