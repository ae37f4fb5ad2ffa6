"""Several ``splitfed run`` processes side by side, their progress on one screen."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from splitfed.progress import Progress
from splitfed.stopping import terminated_like_interrupted

GRACE = 10.0
"""Seconds that a party gets to end by itself before it is killed."""

COMMAND = (sys.executable, "-m", "splitfed", "run", "--events")


def run_together(
    files: Mapping[str, Path],
    out: Path,
    progress: Callable[[str], Progress],
    command: Collection[str] = COMMAND,
) -> int:
    """Runs every party to its end; returns the first exit code that is not 0, or 0.

    When one party fails, or this process is interrupted or terminated, the others are
    stopped: only processes that were started here, each by its own handle.

    Args:
        files: each party's party.toml, by its name.
        out: the folder for the run folders.
        progress: gives each party's progress by its name.
        command: what is started, without the file.
    """
    # One thread each: two parties that both take all cores only get in each other's way.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    ended: list[int] = []
    changed = threading.Condition()

    def follow(process: subprocess.Popen[str], told: Progress) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                forward(line, told)
        code = process.wait()
        with changed:
            ended.append(code)
            changed.notify_all()

    def complain(process: subprocess.Popen[str], told: Progress) -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                told.say(line.rstrip())

    processes: list[subprocess.Popen[str]] = []
    followers: list[threading.Thread] = []
    with terminated_like_interrupted():
        try:
            for name, file in files.items():
                process = subprocess.Popen(
                    [*command, str(file), "--out", str(out)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    stdin=subprocess.DEVNULL,
                    text=True,
                    env=environment,
                    start_new_session=True,  # Ctrl-C reaches us alone, and we pass it on
                )
                processes.append(process)
                told = progress(name)
                for work in (follow, complain):
                    follower = threading.Thread(target=work, args=(process, told), daemon=True)
                    follower.start()
                    followers.append(follower)
            with changed:
                changed.wait_for(lambda: len(ended) == len(files) or any(ended))
                first = next((code for code in ended if code), 0)
        finally:
            _stop(processes)
            for follower in followers:
                follower.join()
    return first


def forward(line: str, told: Progress) -> None:
    """Tells ``told`` one event of a run's ``--events``; any other line is said as it is."""
    try:
        event = json.loads(line)
        kind = event.pop("event")
    except (ValueError, TypeError, AttributeError, KeyError):
        told.say(line.rstrip())
        return
    match kind:
        case "phase":
            told.on_phase(event["text"])
        case "step":
            told.on_step(event["round"], event["step"], event["steps"], event["loss"])
        case "round":
            told.on_round(event["row"])
        case "peer":
            told.on_peer(event["peer"], event["text"])
        case "waiting":
            told.on_waiting(event["what"], event["seconds"], event["how"])
        case "say":
            told.say(event["text"])
        case "end":
            told.on_phase("done")


def _stop(processes: Collection[subprocess.Popen[str]]) -> None:
    """Ends those that still live: asked first, killed after :data:`GRACE` seconds."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
