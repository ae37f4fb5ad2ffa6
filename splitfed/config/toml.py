"""Reading TOML that somebody else may have written, within limits that no honest file meets.

A received federation.toml is a stranger's text until it is agreed on: it must be refused with a
fault and never end, stall or fill the process that looks at it.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitfed.errors import Fault
from splitfed.reading import read_plain, size_of

LARGEST = 1 << 20
"""Bytes of a file."""

DEEPEST = 32
"""Tables and lists inside each other, and the parts of one dotted key."""

MOST_KEYS = 10_000
"""Keys of one table."""

# The parts of one dotted key: tomllib takes the square of their number in time and memory.
_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_DOTTED = re.compile(rf"(?<![\w\-\"'.]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{DEEPEST},}}")


def read_toml(path: Path, missing: str) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The file's values, or None and what is wrong with it.

    Args:
        path: the file.
        missing: what to do where there is none.
    """
    file = str(path)
    try:
        return parse_toml(read_plain(path, LARGEST), file)
    except FileNotFoundError:
        return None, [Fault(file, "(file)", "", f"not found; {missing}")]
    except IsADirectoryError:
        return None, [Fault(file, "(file)", "", "is a folder; name the .toml file in it")]
    except OSError as error:
        return None, [Fault(file, "(file)", "", f"cannot be read: {error.strerror}")]


def agreement_instead(raw: Mapping[str, Any], file: str) -> list[Fault]:
    """What is wrong if these are the values of federation.toml, where party.toml is due."""
    if "party" in raw or not isinstance(raw.get("parties"), dict):
        return []
    cure = "is the agreement; name the party.toml beside it, which names its federation.toml"
    return [Fault(file, "(file)", "", cure)]


def parse_toml(content: bytes, file: str) -> tuple[dict[str, Any] | None, list[Fault]]:
    """The values in the bytes of ``file``, or None and what is wrong with them."""
    if len(content) > LARGEST:
        return None, [Fault(file, "(file)", "", f"is larger than {size_of(LARGEST)}")]
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        cure = f"is no UTF-8 text (byte {error.start}); save it as UTF-8"
        return None, [Fault(file, "(file)", "", cure)]
    deep = Fault(file, "(TOML)", "", f"is nested more than {DEEPEST} deep; write it flat")
    if _DOTTED.search(text):
        return None, [deep]
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return None, [Fault(file, "(TOML)", "", f"{error}; mend the syntax there")]
    except ValueError:  # Python's own limit on digits, or a date that no calendar has
        cure = "holds a number or date that no program can hold; write a plain one"
        return None, [Fault(file, "(TOML)", "", cure)]
    except RecursionError:
        return None, [deep]
    fault = _beyond(values, file, deep)
    return (values, []) if fault is None else (None, [fault])


def _beyond(values: dict[str, Any], file: str, deep: Fault) -> Fault | None:
    """The first value that is nested, long or large beyond what any use has; no recursion."""
    waiting: list[tuple[str, Any, int]] = [("", values, 0)]
    while waiting:
        key, value, depth = waiting.pop()
        if depth > DEEPEST:
            return deep
        if isinstance(value, dict):
            if len(value) > MOST_KEYS:
                return Fault(file, key or "(TOML)", "", f"has more than {MOST_KEYS} keys")
            if any("\0" in name for name in value):
                return Fault(file, key or "(TOML)", "", "has a key with a null byte; rename it")
            waiting += [
                (f"{key}.{name}" if key else name, inner, depth + 1)
                for name, inner in value.items()
            ]
        elif isinstance(value, list):
            waiting += [(key, inner, depth + 1) for inner in value]
        elif isinstance(value, str) and "\0" in value:
            return Fault(file, key, "", "holds a null byte; take it out")
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            return Fault(file, key, "", "is beyond 64 bits; write a smaller number")
    return None
