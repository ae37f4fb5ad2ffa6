"""What the benchmarks have in common: children that start together, machine, table, JSON.

Figures depend on the machine, so each result names it and the command that made it; what is
compared is measured in the same run, taking turns, and never taken from another day.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
MIB = 1 << 20


class Child:
    """A process that gets ready, waits for the start, works and reports one JSON object.

    Args:
        script: the benchmark's own file, started with ``--child`` and the task.
        task: passed to the child as JSON; ``task["role"]`` says what to do.
    """

    def __init__(self, script: str, task: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, "--child", json.dumps(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def answer(self) -> dict[str, Any]:
        """The next JSON line of the child; raises RuntimeError when it ended without one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"benchmark child ended with code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def tell(self, message: Any = "go") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def finish(self) -> None:
        """Let the child end, by force if it does not within 20 seconds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def children(script: str, tasks: Sequence[Mapping[str, Any]]) -> Iterator[list[Child]]:
    """One child per task; all are ended on the way out."""
    started: list[Child] = []
    try:
        for task in tasks:
            started.append(Child(script, task))
        yield started
    finally:
        for child in started:
            child.finish()


def say(message: Mapping[str, Any]) -> None:
    """A child's line to its parent."""
    print(json.dumps(message), flush=True)


def hear() -> Any:
    """A parent's line to this child."""
    return json.loads(sys.stdin.readline())


def child_task() -> dict[str, Any] | None:
    """The task of this process when it is a child, else None."""
    if len(sys.argv) == 3 and sys.argv[1] == "--child":
        task: dict[str, Any] = json.loads(sys.argv[2])
        return task
    return None


class ResidentMemory(threading.Thread):
    """Samples the resident memory of processes every few milliseconds, from outside them."""

    def __init__(self, pids: Sequence[int], interval: float = 0.005) -> None:
        super().__init__(daemon=True)
        self._page = os.sysconf("SC_PAGE_SIZE")
        self._interval = interval
        self._over = threading.Event()
        self.before = {pid: self._now(pid) for pid in pids}
        self.peak = dict(self.before)

    def _now(self, pid: int) -> int:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * self._page

    def run(self) -> None:
        while not self._over.wait(self._interval):
            for pid in self.peak:
                self.peak[pid] = max(self.peak[pid], self._now(pid))

    def stop(self) -> list[int]:
        """Growth of each process over its first sample, bytes."""
        self._over.set()
        self.join()
        return [self.peak[pid] - self.before[pid] for pid in self.peak]


def take_turns(
    times: int, measures: Mapping[str, Callable[[], dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Run each measure ``times`` times, interleaved, so that a busy minute hits all alike."""
    busy = os.getloadavg()[0]
    if busy > 1.0:
        print(f"load {busy:.1f} before the start: others work here too", file=sys.stderr)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in measures}
    for turn in range(times):
        for name, measure in measures.items():
            print(f"[{turn + 1}/{times}] {name}", file=sys.stderr, flush=True)
            results[name].append(measure())
    return results


def middle(values: Sequence[float]) -> float:
    return statistics.median(values)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpu = "unknown"
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "pyzmq", "splitfed")},
    }


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with what every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON result")
    parser.add_argument("--times", type=int, default=5, help="turns that each measure takes")
    return parser


def publish(
    name: str, out: Path, columns: Sequence[str], rows: Sequence[Sequence[str]], result: Any
) -> None:
    """Print the table with machine and command, and write ``out/NAME.json``."""
    command = f"python benchmarks/{Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".strip()
    where = machine()
    table = Table(title=name)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console = Console(width=110)
    console.print(table)
    console.print(f"{where['cpu']}, {where['cores']} cores, Linux {where['kernel']}; {command}")
    out.mkdir(parents=True, exist_ok=True)
    body = {
        "benchmark": name,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": where,
        **result,
    }
    path = out / f"{name}.json"
    path.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    console.print(f"written to {path}")


def processor_seconds() -> float:
    """Processor time this process has used so far, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def now() -> float:
    """Seconds on the clock that all processes of this machine share."""
    return time.monotonic()
