"""``kill -9`` in earnest: every durable point, 200 drawn ones, and ten in one run.

Two processes, ZeroMQ on loopback, three rounds; each kill is a SIGKILL at a durable point (before
a rename, a sync, a commit, or when half of a file is written), and the next process goes on with
the folder that it finds. Wanted every time: both end as done and confirmed, every round closed
and released once, and shared and private tensors equal to those of an undisturbed pair.

* Every durable point of either party, one federation for each.
* 200 kills at points drawn from a seed, one to four in a federation; in every fourth one of them
  comes after the last round. A plan that fails is shrunk and printed.
* Ten kills in one run of `splitfed run` on digits: the same model files, byte for byte.

--quick: seven points, eight drawn kills, three in the run on digits.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from shrinking import shrink
from soak_member import AGREEMENT, NAMES

from soak_rows import Row, told
from splitfed.store import RunFolder
from splitfed.transport.keys import make_secret
from tests.support.pairs import make_pair

SEED = 5
ROUNDS = 3
GIVE_UP, PER_DEATH = 180.0, 60.0  # seconds for one federation, and more for each kill in it
LOOK_EVERY = 0.02  # seconds
AFTER_THE_LAST_ROUND = 3
"""So many points before a party's last one it has closed the last round."""
MEMBER = Path(__file__).with_name("soak_member.py")


@dataclass(frozen=True)
class Death:
    """``party`` is killed at this durable point of its next life."""

    party: str
    point: int

    def __str__(self) -> str:
        return f"{self.party} {self.point}"


Plan = list[Death]


@dataclass
class Outcome:
    """What came of a federation: how often somebody was killed, and what is wrong."""

    deaths: int = 0
    found: list[str] = field(default_factory=list)
    ends: dict[str, Any] = field(default_factory=dict)


class Federation:
    """Two processes that are started again whenever they were killed.

    Args:
        command: what starts a party: its name, its next death, and whether its peer has ended.
        plan: who dies when; deaths of one party in order, one in each of its lives.
        told: what a party that ended says of itself, or None.
    """

    def __init__(
        self,
        command: Callable[[str, Death | None, bool], list[str]],
        plan: Plan,
        told: Callable[[str], dict[str, Any] | None],
    ) -> None:
        self._command, self._told = command, told
        self._plan = {name: [death for death in plan if death.party == name] for name in NAMES}
        self._within = GIVE_UP + PER_DEATH * len(plan)
        self._running: dict[str, subprocess.Popen[str]] = {}
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Until both have ended for good, or something went wrong."""
        until = time.monotonic() + self._within
        try:
            for name in NAMES:
                self._start(name)
            while self._running and not self.outcome.found:
                if time.monotonic() > until:
                    self.outcome.found.append(f"{', '.join(self._running)} did not end")
                for name, process in list(self._running.items()):
                    if process.poll() is not None:
                        self._ended(name, self._running.pop(name))
                time.sleep(LOOK_EVERY)
        finally:
            for process in self._running.values():
                process.kill()
                process.communicate()
        return self.outcome

    def _start(self, name: str) -> None:
        death = self._plan[name].pop(0) if self._plan[name] else None
        self._running[name] = subprocess.Popen(
            self._command(name, death, self._over(name)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def _over(self, name: str) -> bool:
        """Whether the peer of ``name`` has ended for good."""
        return any(end["confirmed"] for peer, end in self.outcome.ends.items() if peer != name)

    def _ended(self, name: str, process: subprocess.Popen[str]) -> None:
        error = process.communicate()[1]
        told = self._told(name) if process.returncode == 0 else None
        if process.returncode == -signal.SIGKILL:
            self.outcome.deaths += 1
            self._start(name)
        elif told is None:
            self.outcome.found.append(f"{name} ended with {process.returncode}: {error[-2000:]}")
        else:
            self.outcome.ends[name] = told
            if not told["confirmed"] and not self._over(name):
                self._start(name)  # its peer may still need it


def small(path: Path, plan: Plan) -> Outcome:
    """One federation of adders in ``path`` under ``plan``."""
    secrets = {name: asdict(make_secret()) for name in NAMES}
    address = f"tcp://127.0.0.1:{_free_port()}"
    path.mkdir(parents=True)
    (path / AGREEMENT).write_text(
        json.dumps({"secrets": secrets, "address": address, "rounds": ROUNDS})
    )

    def command(name: str, death: Death | None, hurry: bool) -> list[str]:
        more = [] if death is None else ["--die", str(death.point)]
        more += ["--hurry"] * hurry
        return [sys.executable, str(MEMBER), "--room", str(path), "--party", name, *more]

    def told(name: str) -> dict[str, Any] | None:
        file = path / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None

    outcome = Federation(command, plan, told).run()
    if not outcome.found:
        outcome.found += _wrong_in(path, outcome.ends)
    return outcome


def _wrong_in(path: Path, ends: dict[str, Any]) -> list[str]:
    found, rounds = [], list(range(1, ROUNDS + 1))
    if not any(ends[name]["confirmed"] for name in NAMES):
        found.append("nobody is confirmed")
    for name in NAMES:
        if ends[name]["outcome"] != "done":
            found.append(f"{name} ended {ends[name]['outcome']}")
        with RunFolder.read_only(path / name) as folder:
            closed = [row["round"] for row in folder.history() if row["outcome"] == "agreed"]
            released = [entry.row.round for entry in folder.ledger.rows()]
            folder.verify()
            if folder.evidence():
                found.append(f"{name} holds evidence against its peer")
        for what, numbers in (("closed", closed), ("released", released)):
            if numbers != rounds:
                found.append(f"{name} {what} {numbers}")
    return found


class Soak:
    """All kills in federations of adders, against one undisturbed federation."""

    def __init__(self, path: Path) -> None:
        self._path, self._count = path, 0
        calm = self._carried([])
        if calm.found:
            raise RuntimeError(f"undisturbed: {calm.found}")
        self.calm = calm.ends
        self.points = {name: int(calm.ends[name]["points"]) for name in NAMES}

    def _carried(self, plan: Plan) -> Outcome:
        self._count += 1
        path = self._path / str(self._count)
        try:
            return small(path, plan)
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def trial(self, plan: Plan) -> Outcome:
        """One federation under ``plan``, compared to the undisturbed one."""
        outcome = self._carried(plan)
        for name in NAMES if not outcome.found else ():
            for what in ("shared", "private"):
                if outcome.ends[name][what] != self.calm[name][what]:
                    outcome.found.append(f"{name} ended with other {what} tensors")
        return outcome

    def trials(self, plans: Sequence[Plan]) -> list[Outcome]:
        """All of them, as many at a time as there are cores for two processes each."""
        with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2)) as workers:
            return list(workers.map(self.trial, plans))

    def failing(self, plan: Plan) -> str:
        """What is wrong under a plan, and the shortest plan under which something is."""
        short = shrink(plan, lambda some: bool(self.trial(some).found))
        return f"plan {'; '.join(map(str, plan))}; shrunk: {'; '.join(map(str, short))}"


def every_point(soak: Soak, quick: bool) -> Row:
    """One kill at each durable point of each party."""
    plans = [[Death(name, point)] for name in NAMES for point in range(soak.points[name])]
    if quick:
        plans = plans[:: max(1, len(plans) // 6)]
    outcomes = soak.trials(plans)
    good = sum(not outcome.found and outcome.deaths == 1 for outcome in outcomes)
    for plan, outcome in zip(plans, outcomes, strict=True):
        if outcome.found or outcome.deaths != 1:
            _say(f"kill at {plan[0]}: {outcome.deaths} deaths, {outcome.found}")
    return Row(
        "`kill -9` at every durable point of either party" + " (some)" * quick,
        f"{len(plans)} of {len(plans)} recover",
        f"{good} of {len(plans)}",
        good == len(plans),
    )


def drawn_plans(points: dict[str, int], kills: int, seed: int) -> list[Plan]:
    """Plans with ``kills`` deaths in all; in every fourth plan one is after the last round."""
    draw, plans = random.Random(seed), list[Plan]()
    while (left := kills - sum(map(len, plans))) > 0:
        plan = [_drawn(draw, points) for _ in range(min(left, draw.randint(1, 4)))]
        if len(plans) % 4 == 0:
            name = draw.choice(NAMES)
            last = points[name] - draw.randint(1, AFTER_THE_LAST_ROUND)
            plan = [*(death for death in plan[1:] if death.party != name), Death(name, last)]
        plans.append(plan)
    return plans


def _drawn(draw: random.Random, points: dict[str, int]) -> Death:
    """Later lives have fewer points left: early ones are drawn more often."""
    name = draw.choice(NAMES)
    return Death(name, int(points[name] * draw.random() ** 2))


def drawn(soak: Soak, quick: bool, seed: int) -> Row:
    """Kills at drawn points, several in a federation."""
    wanted, outcomes = 8 if quick else 200, list[Outcome]()
    while (left := wanted - sum(outcome.deaths for outcome in outcomes)) > 0:
        plans = drawn_plans(soak.points, left, seed + len(outcomes))
        found = soak.trials(plans)
        for plan, outcome in zip(plans, found, strict=True):
            if outcome.found:
                _say(f"seed {seed}: {outcome.found}; {soak.failing(plan)}")
        outcomes += found
    kills = sum(outcome.deaths for outcome in outcomes)
    bad = sum(bool(outcome.found) for outcome in outcomes)
    return Row(
        f"{wanted} kills at points drawn from seed {seed}, those after the last round included",
        "0 lost or doubled rounds, equal tensors",
        f"{kills} kills in {len(outcomes)} federations, {bad} of them not as undisturbed",
        bad == 0,
    )


def ten_times(path: Path, quick: bool, seed: int) -> Row:
    """One real run whose parties are killed again and again, and one whose are not."""
    wanted, draw = 3 if quick else 10, random.Random(seed)
    calm, hit = make_pair(path / "calm"), make_pair(path / "hit")
    # A life needs to pass some points, or ten lives would not come to the end together.
    plan = [Death(NAMES[number % 2], 8 + draw.randint(0, 3)) for number in range(wanted)]
    quiet, rough = real(calm, []), real(hit, plan)
    found = [*quiet.found, *rough.found]
    for name in NAMES if not found else ():
        ours, theirs = (where / name / "runs" / name for where in (hit, calm))
        for file in sorted(theirs.glob("*.safetensors")):
            if (ours / file.name).read_bytes() != file.read_bytes():
                found.append(f"{name}: {file.name} differs")
    for fault in found:
        _say(fault)
    return Row(
        f"one run of `splitfed run`, its parties killed {wanted} times",
        "the model files of an undisturbed run, byte for byte",
        f"{rough.deaths} kills, {'equal' if not found else 'NOT equal'}",
        not found and rough.deaths == wanted,
    )


def real(where: Path, plan: Plan) -> Outcome:
    """The pair in ``where`` as `splitfed run` runs it."""

    def command(name: str, death: Death | None, hurry: bool) -> list[str]:
        more = [] if death is None else ["--die", str(death.point)]
        return [sys.executable, str(MEMBER), "--run", str(where / name / "party.toml"), *more]

    def told(name: str) -> dict[str, Any] | None:
        with RunFolder.read_only(where / name / "runs" / name) as folder:
            return {"confirmed": folder.confirmed}

    return Federation(command, plan, told).run()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def measure(quick: bool, seed: int = SEED) -> list[Row]:
    """All rows of the kills."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        rows = [ten_times(path, quick, seed)]
        soak = Soak(path / "small")
        return [every_point(soak, quick), drawn(soak, quick, seed), *rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    began = time.monotonic()
    print(f"seed {options.seed}", flush=True)
    return told(measure(options.quick, options.seed), began)


if __name__ == "__main__":
    sys.exit(main())
