"""Several ``splitfed run`` processes side by side on one screen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

LAST_PHASE = "evaluating"
GRACE = 10.0
"""Seconds that a party gets to end by itself before it is killed."""


def run_together(files: Mapping[str, Path], out: Path) -> int:
    """Run every party to its end; returns the first exit code that is not 0, or 0.

    Each line that a party prints appears with its name before it. When one party fails or
    Ctrl-C is pressed, the others are stopped: only processes started here, by their handle.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    processes = {
        name: subprocess.Popen(
            [sys.executable, "-m", "splitfed", "run", str(file), "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
        )
        for name, file in files.items()
    }
    ended: dict[str, int] = {}
    changed = threading.Condition()

    def follow(name: str, process: subprocess.Popen[str]) -> None:
        told = True
        for line in process.stdout or ():
            told = told or line.startswith("error")
            if told:
                print(f"{name}: {line.rstrip()}", flush=True)
            if line.strip() == LAST_PHASE:
                told = False  # its own table follows; the demo prints one of all parties
        code = process.wait()
        with changed:
            ended[name] = code
            changed.notify_all()

    followers = [
        threading.Thread(target=follow, args=item, daemon=True) for item in processes.items()
    ]
    try:
        for follower in followers:
            follower.start()
        with changed:
            while len(ended) < len(processes) and not any(ended.values()):
                changed.wait(1.0)
    finally:
        _stop(processes.values())
    for follower in followers:
        follower.join()
    return next((code for code in ended.values() if code), 0)


def _stop(processes: Collection[subprocess.Popen[str]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
