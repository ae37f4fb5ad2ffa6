"""Two parties as two real ``splitfed run`` processes on loopback, in the benchmarks' setting.

The setting: ThreeLayerCNN on real MNIST digits, 2,000 training digits a party, batch 64,
SGD 0.05 with momentum 0.9, conv1 and conv2 shared, one thread a party, no local baseline.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import now
from splitfed.transport.keys import create_secret

PARTIES = ("hospital-a", "hospital-b")
RECORDS = 2000
VALIDATION = 83  # what 2,000 training digits a party leave of the 5,000 for it
BATCH = 64
LR = 0.05
MOMENTUM = 0.9
LOOK_EVERY = 0.02  # seconds
GIVE_UP = 900.0  # seconds
SEED = 20_240_601
MEAN, STD = 0.5, 0.5

_FEDERATION = """\
name = "benchmark"
rounds = {rounds}
classes = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
seed = {seed}

[model]
factory = "splitfed.models:ThreeLayerCNN"

[preprocessing]
channels = 1
size = [28, 28]
mean = [{mean}]
std = [{std}]

[aggregation]
max_update_norm = 1000.0

[privacy]
mode = "none"
"""

_ROSTER = """
[parties.{name}]
public_key = "{public_key}"
signing_key = "{signing_key}"
records = {records}
"""

_PARTY = """\
federation = "../federation.toml"
party = "{name}"
secret_key = "secret.json"

[link]
patience = 120.0

[data]
id = "digits"
train = "{train}"
validation = "{validation}"
test = "{test}"

[training]
optimizer = "sgd"
lr = {lr}
momentum = {momentum}
batch_size = {batch}
epochs = 1
fit_epochs = 0
threads = 1
"""


@dataclass(frozen=True)
class Ended:
    """One party's finished run: its report, and when each round was closed by the log, on
    the clock of :func:`measuring.now` (the log's own times follow a clock that is adjusted)."""

    report: dict[str, Any]
    closings: dict[int, float]


def source(party: int, part: str) -> str:
    """The data source of one party's digits."""
    return f"digits:party={party}&parties={len(PARTIES)}&split=skew&records={RECORDS}&part={part}"


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def write_pair(folder: Path, rounds: int) -> list[Path]:
    """Make keys and files for two parties below ``folder``; the two party.toml."""
    agreement = _FEDERATION.format(rounds=rounds, seed=SEED, mean=MEAN, std=STD)
    files = []
    for index, name in enumerate(PARTIES):
        (folder / name).mkdir(parents=True)
        keys = create_secret(folder / name / "secret.json")
        agreement += _ROSTER.format(
            name=name,
            public_key=keys.public_key,
            signing_key=keys.signing_key,
            records=RECORDS,
        )
        if index == 0:
            agreement += f'address = "tcp://127.0.0.1:{free_port()}"\n'
        file = folder / name / "party.toml"
        parts = {part: source(index, part) for part in ("train", "validation", "test")}
        file.write_text(
            _PARTY.format(name=name, lr=LR, momentum=MOMENTUM, batch=BATCH, **parts),
            encoding="utf-8",
        )
        files.append(file)
    (folder / "federation.toml").write_text(agreement, encoding="utf-8")
    return files


def run_pair(folder: Path, rounds: int) -> list[Ended]:
    """Start both parties at once and wait for both.

    Raises:
        RuntimeError: one of them did not exit with 0; its output is shown.
    """
    files = write_pair(folder, rounds)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    processes, folders = [], [folder / "runs" / file.parent.name for file in files]
    for file in files:
        with (file.parent / "output.txt").open("wb") as output:
            command = [sys.executable, "-m", "splitfed", "run", str(file)]
            command += ["--out", str(folder / "runs")]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    closings: list[dict[int, float]] = [{} for _ in files]
    give_up = now() + GIVE_UP
    try:
        while any(process.poll() is None for process in processes):
            if now() > give_up:
                raise RuntimeError(f"the pair did not end within {GIVE_UP} seconds")
            for own, seen in zip(folders, closings, strict=True):
                _note_closings(own / "log.jsonl", seen)
            time.sleep(LOOK_EVERY)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    for process, file in zip(processes, files, strict=True):
        if process.returncode:
            text = (file.parent / "output.txt").read_text(encoding="utf-8")
            raise RuntimeError(f"{file.parent.name} ended with code {process.returncode}:\n{text}")
    return [
        Ended(json.loads((own / "report.json").read_text(encoding="utf-8")), seen)
        for own, seen in zip(folders, closings, strict=True)
    ]


def _note_closings(log: Path, seen: dict[int, float]) -> None:
    if not log.is_file():
        return
    for line in log.read_text(encoding="utf-8").splitlines():
        if '"closed"' in line:
            try:
                entry = json.loads(line)
            except ValueError:  # still being written
                continue
            if entry["event"] == "closed":
                seen.setdefault(entry["round"], now())
