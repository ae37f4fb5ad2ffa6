"""The wall clock is shown and written down, and nothing else: it may be set at any time, so
whatever lasts is measured by a monotonic clock or by one that is passed in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("splitfed", "models", "transport")

CLOCKS = ("time", "datetime")
"""The modules that know the wall clock."""

WALL = {
    *(f"time.{name}" for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "asctime")),
    *(f"time.{name}" for name in ("strftime", "CLOCK_REALTIME", "CLOCK_TAI")),
    *(f"datetime.datetime.{name}" for name in ("now", "utcnow", "today")),
    "datetime.date.today",
}

ALLOWED = {
    # Rows of a ledger and of an account, lines of the log: when they were written, for people.
    "splitfed/store/budget.py": {"time.time"},
    "splitfed/store/folder.py": {"time.time"},
    "splitfed/store/journal.py": {"time.time", "datetime.datetime.now"},
    "splitfed/store/ledger.py": {"time.time"},
    "splitfed/store/view.py": {"time.time"},
    # Since when a wait lasts, shown in status.json; how long it lasts is measured beside it.
    "splitfed/rounds/telling.py": {"datetime.datetime.now"},
    # How old the status of a dead process is: its monotonic clock may have ended with the machine.
    "splitfed/cli/status.py": {"datetime.datetime.now"},
}


def names_of(tree: ast.AST) -> Iterator[str]:
    """All that ``tree`` takes from the modules with a wall clock, by its full name, whatever it is
    called there."""
    called: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for part in node.names:
                if part.name in CLOCKS:
                    called[part.asname or part.name] = part.name
        elif isinstance(node, ast.ImportFrom) and node.module in CLOCKS and not node.level:
            for part in node.names:
                called[part.asname or part.name] = f"{node.module}.{part.name}"
                yield f"{node.module}.{part.name}"
    for node in ast.walk(tree):
        steps: list[str] = []
        while isinstance(node, ast.Attribute):
            steps.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in called and steps:
            yield ".".join((called[node.id], *reversed(steps)))


def wall_clock_in(source: str) -> set[str]:
    found = set(names_of(ast.parse(source)))
    return {name for name in found if name in WALL or name.endswith(".*")}


def test_only_what_is_shown_or_written_down_asks_the_wall_clock() -> None:
    found = {
        str(path.relative_to(ROOT)): wall_clock_in(path.read_text(encoding="utf-8"))
        for top in PRODUCT
        for path in (ROOT / top).rglob("*.py")
        if not any((ROOT / top / part).is_symlink() for part in path.relative_to(ROOT / top).parts)
    }
    assert {"splitfed/rounds/engine.py", "transport/link.py", "models/cnn.py"} <= found.keys()
    assert {name: clocks for name, clocks in found.items() if clocks} == ALLOWED


@pytest.mark.parametrize(
    ("source", "clock"),
    [
        ("import time\ndef f(clock=time.time): pass", "time.time"),
        ("import time as t\nt.time_ns()", "time.time_ns"),
        ("from time import time as now\nnow()", "time.time"),
        ("from time import time\nclass A:\n    clock = time", "time.time"),
        ("from time import *", "time.*"),
        ("import time\ntime.clock_gettime(time.CLOCK_REALTIME)", "time.CLOCK_REALTIME"),
        ("from datetime import UTC, datetime\ndatetime.now(UTC)", "datetime.datetime.now"),
        ("import datetime as d\nd.datetime.now().timestamp()", "datetime.datetime.now"),
        ("import datetime\ndatetime.date.today()", "datetime.date.today"),
    ],
)
def test_the_wall_clock_is_seen(source: str, clock: str) -> None:
    assert wall_clock_in(source) == {clock}


@pytest.mark.parametrize(
    "source",
    [
        "import time\nclock = time.monotonic\ntime.perf_counter()\ntime.clock_gettime(7)",
        "from datetime import datetime\ndatetime.fromtimestamp(clock())",
        "def f(row):\n    return row.time + event.time.time",
    ],
)
def test_other_clocks_are_not_taken_for_it(source: str) -> None:
    assert wall_clock_in(source) == set()
