"""The demo's processes: their progress is passed on, and none outlives the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from splitfed.demo.processes import forward, run_together

WITHIN = 60.0


class Recorder:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def on_phase(self, text: str) -> None:
        self.told.append(("phase", text))

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        self.told.append(("step", round, step, steps, loss))

    def on_round(self, row: Mapping[str, Any]) -> None:
        self.told.append(("round", dict(row)))

    def on_peer(self, peer: str, text: str) -> None:
        self.told.append(("peer", peer, text))

    def on_waiting(self, what: str, seconds: float, how: str) -> None:
        self.told.append(("waiting", what, seconds, how))

    def say(self, text: str) -> None:
        self.told.append(("say", text))


def test_every_event_is_passed_on() -> None:
    told = Recorder()
    for event in (
        {"event": "phase", "text": "training"},
        {"event": "step", "round": 1, "step": 2, "steps": 3, "loss": 0.5},
        {"event": "round", "row": {"round": 1}},
        {"event": "peer", "peer": "b", "text": "connected"},
        {"event": "waiting", "what": "the vote of b", "seconds": 9.5, "how": "b: connected"},
        {"event": "say", "text": "hello"},
        {"event": "end", "exit_code": 0, "report": "r"},
        {"event": "of a later version"},
    ):
        forward(json.dumps(event) + "\n", told)
    assert told.told == [
        ("phase", "training"),
        ("step", 1, 2, 3, 0.5),
        ("round", {"round": 1}),
        ("peer", "b", "connected"),
        ("waiting", "the vote of b", 9.5, "b: connected"),
        ("say", "hello"),
        ("phase", "done"),
    ]


@pytest.mark.parametrize("line", ["Warning: x\n", "[1]\n", "{}\n", "3\n"])
def test_a_line_that_is_no_event_is_said_as_it_is(line: str) -> None:
    told = Recorder()
    forward(line, told)
    assert told.told == [("say", line.rstrip())]


def script(tmp_path: Path, body: str) -> list[str]:
    """A stand-in for `splitfed run`: gets the party's file and --out DIR."""
    file = tmp_path / "stand_in.py"
    file.write_text("import json, os, signal, sys, time\n" + body)
    return [sys.executable, str(file)]


def together(tmp_path: Path, body: str) -> tuple[int, dict[str, Recorder]]:
    told: dict[str, Recorder] = {}

    def progress(name: str) -> Recorder:
        return told.setdefault(name, Recorder())

    files = {name: tmp_path / name / "party.toml" for name in ("a", "b")}
    return run_together(files, tmp_path / "out", progress, script(tmp_path, body)), told


def test_each_process_is_told_its_file_and_the_common_folder(tmp_path: Path) -> None:
    code, told = together(
        tmp_path,
        "print(json.dumps({'event': 'say', 'text': ' '.join(sys.argv[1:])}))\n"
        "print('trouble', file=sys.stderr)\n"
        "print(os.environ['OMP_NUM_THREADS'])\n",
    )
    assert code == 0
    for name in ("a", "b"):
        said = {text for _, text in told[name].told}
        assert said == {
            f"{tmp_path}/{name}/party.toml --out {tmp_path}/out", "trouble", "1"
        }  # fmt: skip


def test_the_others_are_stopped_when_one_fails(tmp_path: Path) -> None:
    """b would run for an hour; it is asked to stop, and its own code is not the answer."""
    code, told = together(
        tmp_path,
        "mine = os.path.basename(os.path.dirname(sys.argv[1]))\n"
        f"flag = {str(tmp_path / 'b-runs')!r}\n"
        "if mine == 'a':\n"
        "    while not os.path.exists(flag): time.sleep(0.01)\n"
        "    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('asked to stop'), sys.exit(130)))\n"
        "open(flag, 'w').close()\n"
        "time.sleep(3600)\n",
    )
    assert code == 3
    assert ("say", "asked to stop") in told["b"].told


def test_a_process_that_does_not_listen_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitfed.demo.processes.GRACE", 0.2)
    code, _ = together(
        tmp_path,
        "mine = os.path.basename(os.path.dirname(sys.argv[1]))\n"
        f"flag = {str(tmp_path / 'pid')!r}\n"
        "if mine == 'a':\n"
        "    while not os.path.exists(flag): time.sleep(0.01)\n"
        "    sys.exit(2)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open(flag + '.new', 'w').write(str(os.getpid()))\n"
        "os.rename(flag + '.new', flag)\n"
        "time.sleep(3600)\n",
    )
    assert code == 2
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_child_outlives_an_interrupted_demo(tmp_path: Path, number: signal.Signals) -> None:
    stand_in = script(
        tmp_path,
        f"flag = os.path.join({str(tmp_path)!r}, str(os.getpid()) + '.pid')\n"
        "open(flag, 'w').close()\n"
        "time.sleep(3600)\n",
    )
    files = {name: str(tmp_path / name / "party.toml") for name in ("a", "b")}
    code = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\n"
        "from splitfed.demo.processes import run_together\n"
        "from splitfed.progress import Silent\n"
        f"files = {{k: Path(v) for k, v in {files!r}.items()}}\n"
        "try:\n"
        f"    run_together(files, Path({str(tmp_path)!r}), lambda name: Silent(), {stand_in!r})\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
    )
    demo = subprocess.Popen([sys.executable, "-c", code])
    try:
        deadline = time.monotonic() + WITHIN
        while len(pids := list(tmp_path.glob("*.pid"))) < 2:
            assert time.monotonic() < deadline, "the stand-ins did not start"
            threading.Event().wait(0.01)
        demo.send_signal(number)
        assert demo.wait(WITHIN) == 130
    finally:
        if demo.poll() is None:
            demo.kill()
            demo.wait()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.stem), 0)
