"""One party as a process of its own that kills itself at a given durable point.

    python soak_member.py --room FOLDER --party a [--die 31] [--hurry]
    python soak_member.py --run PARTY.toml [--die 31]

With ``--room`` it is a round engine over ZeroMQ on loopback, with a learner that only adds: all
that is durable, without a model's start-up time. With ``--run`` it is `splitfed run` itself. The
kill is SIGKILL from inside, before the point's system call: nothing is tidied up. Of a file, half
is written by then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from splitfed.progress import Silent
from splitfed.rounds import Engine, Entrance, Terms, Trained
from splitfed.store import Disk, RunFolder
from splitfed.store.durable import Bytes
from splitfed.tensors import Tensors, describe, digest
from splitfed.transport.events import Greeting
from splitfed.transport.keys import Identity, PeerKeys, Secret
from splitfed.transport.link import Link
from splitfed.transport.sockets import WireOptions
from splitfed.transport.zeromq import ZmqWire
from tests.support.crossing import Adder

NAMES = ("a", "b")
AGREEMENT = "agreement.json"
INITIAL: Tensors = {"w": torch.zeros(4), "b": torch.tensor([1.0, -1.0])}
QUICK = replace(
    WireOptions(), reconnect_interval=0.05, reconnect_max=0.2, retry_grace=0.2, jitter=(0.0, 0.05)
)
"""A party is back within milliseconds here, so nobody waits for long before dialing again."""
HURRY = 0.5
"""Seconds that a party waits for a last word of a peer that is known to have ended."""


class Keeper(Adder):
    """Keeps a private value besides, which no training and no merge leaves alone: a lost, doubled
    or swapped one ends elsewhere."""

    private = torch.ones(2, dtype=torch.float64)

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        self.private = self.private * 1.5 + round
        return super().train(round, step)

    def merge(self, shared: Tensors) -> None:
        super().merge(shared)
        self.private = self.private * 1.25 + float(shared["w"].sum())

    def state(self) -> tuple[Tensors, dict[str, object]]:
        return {**self.shared(), "private": self.private.clone()}, {}

    def restore(self, tensors: Tensors, meta: dict[str, object]) -> None:
        self.values = {name: tensor.clone() for name, tensor in tensors.items()}
        self.private = self.values.pop("private")


class Points:
    """Counts durable points and ends the process at one of them."""

    def __init__(self, stop: int | None) -> None:
        self.passed, self._stop = 0, stop

    def __call__(self) -> None:
        if self.passed == self._stop:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed += 1


class MortalDisk(Disk):
    """The real disk, with a point before each of its calls and in the middle of each file."""

    points: Points

    def make_dir(self, folder: Path) -> None:
        self.points()
        super().make_dir(folder)

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        self.points()
        data = b"".join(bytes(part) for part in parts)
        path.write_bytes(data[: len(data) // 2])
        self.points()
        super().write_file(path, (data,))

    def rename(self, source: Path, target: Path) -> None:
        self.points()
        super().rename(source, target)

    def fsync_dir(self, folder: Path) -> None:
        self.points()
        super().fsync_dir(folder)

    def remove(self, path: Path) -> None:
        self.points()
        super().remove(path)

    def commit(self, connection: sqlite3.Connection) -> None:
        self.points()
        super().commit(connection)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--room", type=Path)
    parser.add_argument("--party", choices=NAMES)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--die", type=int)
    parser.add_argument("--hurry", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    MortalDisk.points = Points(options.die)
    if options.run is not None:
        run(options.run)
    else:
        take_part(options.room, options.party, hurry=options.hurry)


def run(party_file: Path) -> None:
    """`splitfed run` on a disk that may end it."""
    import splitfed.store.budget
    import splitfed.store.durable
    import splitfed.store.folder

    for module in (splitfed.store.durable, splitfed.store.folder, splitfed.store.budget):
        vars(module)["Disk"] = MortalDisk
    from splitfed.cli import main as command

    sys.argv = ["splitfed", "run", str(party_file)]
    command()


def take_part(room: Path, party: str, *, hurry: bool) -> None:
    """One life of ``party`` in the federation of ``room``; its end is written to the room."""
    agreement = json.loads((room / AGREEMENT).read_text())
    secrets = {name: Secret(**fields) for name, fields in agreement["secrets"].items()}
    terms = terms_of(agreement["rounds"], secrets)
    disk = MortalDisk()
    with RunFolder.open(room / party, party=party, contract=terms.contract, disk=disk) as folder:
        entrance = Entrance(terms)
        greeting = Greeting(
            name=party,
            contract=terms.contract,
            roster=b"r" * 32,
            initial=digest(INITIAL),
            folder=folder.folder_id,
            boot=folder.boot,
        )
        link = Link(
            wire_of(party, secrets, agreement["address"]),
            party,
            [name for name in NAMES if name != party],
            greeting=greeting,
            accept=entrance.accept,
            verify=terms.signed_by,
        )
        learner = Keeper(1.0 + NAMES.index(party), dict(INITIAL), lambda moment, round: None)
        engine = Engine(
            terms=terms,
            party=party,
            signer=secrets[party],
            folder=folder,
            link=link,
            entrance=entrance,
            learner=learner,
            initial=INITIAL,
            greeting=greeting,
            progress=Silent(),
            confirm_within=HURRY if hurry else 60.0,
        )
        try:
            ending = engine.run()
        finally:
            link.close()
    told: dict[str, Any] = {
        "outcome": ending.outcome,
        "confirmed": ending.confirmed,
        "shared": digest(ending.shared).hex(),
        "private": learner.private.tolist(),
        "points": disk.points.passed,
    }
    (room / f"{party}.json").write_text(json.dumps(told))


def terms_of(rounds: int, secrets: dict[str, Secret]) -> Terms:
    """The agreement of a room."""
    return Terms(
        contract=b"c" * 32,
        parties=NAMES,
        signing_keys={name: secret.signing_public for name, secret in secrets.items()},
        shared=describe(INITIAL),
        rounds=rounds,
        max_update_norm=100.0,
        weights=dict.fromkeys(NAMES, 1.0),
        minimum_parties=2,
    )


def wire_of(party: str, secrets: dict[str, Secret], address: str) -> ZmqWire:
    """``a`` listens at the address, ``b`` dials it."""
    roster = {
        name: PeerKeys(
            public_key=secret.curve_public,
            signing_key=secret.signing_public,
            address=address if name == "a" else None,
        )
        for name, secret in secrets.items()
    }
    me = Identity(name=party, secret=secrets[party])
    return ZmqWire(me, roster, address if party == "a" else None, options=QUICK)


if __name__ == "__main__":
    main()
