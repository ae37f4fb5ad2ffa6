"""Two party folders, and the commands that are run on them.

A federation needs two processes, not two new ones: where a test has no need to kill a party, the
second one runs here, in the process of the tests (:func:`here`), which has torch loaded already.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from tests.support import dying_run
from tests.support.commands import Answer, answer_to
from tests.support.ports import free_port

WITHIN = 100.0
NAMES = ("a", "b")


def newcomer(index: int, where: Path, address: str | None) -> Newcomer:
    source = f"digits:party={index}&parties=2&split=iid&records=96"
    return Newcomer(
        party=NAMES[index],
        address=address,
        records=96,
        sources=sources_of(source, where),
        acceptance=index == 0,
    )


def make_pair(where: Path) -> Path:
    """Two party folders with one agreement of three rounds."""
    address = f"tcp://127.0.0.1:{free_port()}"
    proposal = Proposal(name="pair", classes=DIGITS, rounds=3, privacy="none")
    made = found(where / "a", proposal, newcomer(0, where, address))
    joined = join(where / "b", made.federation_file, newcomer(1, where, None))
    shutil.copyfile(joined.federation_file, made.federation_file)
    return where


def start(where: Path, name: str, *more: str, command: str = "run") -> subprocess.Popen[str]:
    """The command on the party's file, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "splitfed", command, str(where / name / "party.toml"), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def start_dying(where: Path, name: str, before: str) -> subprocess.Popen[str]:
    """The party's run, which is killed before it renames a file to ``before``."""
    return subprocess.Popen(
        [sys.executable, dying_run.__file__, before, "run", str(where / name / "party.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )


def until(process: subprocess.Popen[str], *words: str) -> str:
    """Read what the process tells until a line has one of the words; all that was read."""
    assert process.stdout is not None
    told = []
    for line in process.stdout:
        told.append(line)
        if any(word in line for word in words):
            return "".join(told)
    process.kill()
    pytest.fail(f"ended before {words}:\n{''.join(told)}{process.communicate()[1]}")


def end(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the process: its exit code and what it told since."""
    try:
        out, error = process.communicate(timeout=WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        out, error = process.communicate()
        pytest.fail(f"did not end:\n{out}\n{error}")
    return process.returncode, out, error


def killed(process: subprocess.Popen[str]) -> None:
    """Wait until the process was killed, which it must be."""
    code, out, error = end(process)
    assert code == -signal.SIGKILL, f"ended with {code}:\n{out}\n{error}"


def here(where: Path, name: str, *more: str, command: str = "run") -> Answer:
    """The same command in this process, to its end."""
    return answer_to(command, where / name / "party.toml", *more)


def run_both(where: Path, **flags: str) -> tuple[tuple[int, str, str], Answer]:
    """Party a in a process of its own, b in this one as soon as a is there, to the end of both.

    Args:
        flags: of a party's command, by its name.
    """
    first = start(where, "a", *[flags[name] for name in flags if name == "a"])
    try:
        told = until(first, "meeting")
        second = here(where, "b", *[flags[name] for name in flags if name == "b"])
    except BaseException:
        first.kill()
        first.communicate()
        raise
    if second.code not in (0, 2, 5):  # nobody is left whom a could wait for
        first.kill()
    code, out, error = end(first)
    return (code, told + out, error), second


def report(where: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((where / name / "runs" / name / "report.json").read_text())
    return found
