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
from dataclasses import dataclass
from datetime import datetime
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
    """One party's finished run: its report, and how long the process lived, seconds."""

    report: dict[str, Any]
    log: list[dict[str, Any]]
    lived: float

    def closings(self) -> dict[int, float]:
        """When each round was closed, by the log: seconds since the epoch."""
        return {
            line["round"]: datetime.fromisoformat(line["time"]).timestamp()
            for line in self.log
            if line["event"] == "closed"
        }


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
    began = now()
    processes = []
    for file in files:
        with (file.parent / "output.txt").open("wb") as output:
            command = [sys.executable, "-m", "splitfed", "run", str(file)]
            command += ["--out", str(folder / "runs")]
            processes.append(
                subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            )
    ended = []
    try:
        for process, file in zip(processes, files, strict=True):
            code = process.wait(timeout=600)
            lived = now() - began
            if code:
                text = (file.parent / "output.txt").read_text(encoding="utf-8")
                raise RuntimeError(f"{file.parent.name} ended with code {code}:\n{text}")
            own = folder / "runs" / file.parent.name
            report = json.loads((own / "report.json").read_text(encoding="utf-8"))
            lines = (own / "log.jsonl").read_text(encoding="utf-8").splitlines()
            ended.append(Ended(report, [json.loads(line) for line in lines], lived))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    return ended
