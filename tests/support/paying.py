"""Two parties that pay for what they release, and whose noise is new whenever it is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from splitfed.rounds import Ending
from splitfed.run.spending import Account
from splitfed.store import BUDGET, Budget, RunFolder
from splitfed.tensors import digest
from tests.support.members import Town
from tests.support.privacy import mechanism
from tests.support.trials import (
    PAIR,
    Clock,
    KeepingLearner,
    Watch,
    die_at,
    ready,
    return_of,
    unsure,
)

_NOISE = itertools.count(1)
DATA = "scans"


class NoisyLearner(KeepingLearner):
    """No training ends twice with the same values."""

    def train(self, round, step):
        made = super().train(round, step)
        noise = 2.0**-12 * next(_NOISE)
        self.values = {name: tensor + noise for name, tensor in self.values.items()}
        return made


class PayingTown(Town):
    """Each party has its account inside its run folder: one image of a crash holds both."""

    @contextmanager
    def account(self, name: str) -> Iterator[dict]:
        path = self.folders[name] / BUDGET
        disk = self.disks.get(name)
        with Budget.open(path, data_id=DATA, data_digest=b"d" * 32, disk=disk) as opened:
            with RunFolder.read_only(self.folders[name]) as folder:
                opened.require(folder.ledger.rows())
            yield {
                "spending": Account(
                    mechanism=mechanism(noise_multiplier=2.0, rounds=self.terms.rounds),
                    party=name,
                    budget=opened,
                )
            }


def paying(path: Path) -> Town:
    """Two parties, one round."""
    town = PayingTown(path, list(PAIR), {"rounds": 1}, Clock())
    town.learner = NoisyLearner
    return ready(town)


def paid_crash(town: Town, victim: str, stop: int) -> tuple[str, list[str]]:
    """Let ``victim`` lose power before its durable point number ``stop``; returns where that
    was and what is wrong with what was paid, then and in the end."""
    where, _ = die_at(town, victim, stop, "lost")
    found = unpaid(town, victim) if where else []
    if where:
        return_of(town, victim)
    for name in town.names:
        ending = town.endings[name]
        if not isinstance(ending, Ending) or ending.outcome != "done":
            found.append(f"{name} ended with {ending!r}")
    if found:
        return where, found
    if not all(town.endings[name].confirmed for name in town.names) and not unsure(town, victim):
        found.append("somebody was not confirmed")
    if len({digest(town.endings[name].shared) for name in town.names}) > 1:
        found.append("the parties ended with different shared tensors")
    for name in town.names:
        found += unpaid(town, name)
        debits = Budget.read(town.folders[name] / BUDGET, DATA)
        with RunFolder.read_only(town.folders[name]) as folder:
            rows = folder.ledger.rows()
            if [debit.root for debit in debits] != [entry.row.root for entry in rows]:
                found.append(f"{name}: {len(debits)} debits for {len(rows)} releases")
            wanted = mechanism(noise_multiplier=2.0, rounds=1).epsilon(len(rows), 0)
            if [row["epsilon"] for row in folder.history()] != [wanted]:
                found.append(f"{name}: epsilon is not {wanted} in {folder.history()}")
    return where, found


def unpaid(town: Town, name: str) -> list[str]:
    """What ``name`` was ever seen to say and its account does not know."""
    watch = town.hub.record
    assert isinstance(watch, Watch)
    said = set().union(*(it for key, it in watch.said.items() if key[::2] == (name, "update")))
    paid = {debit.root for debit in Budget.read(town.folders[name] / BUDGET, DATA)}
    return watch.faults() + [f"{name} sent {root.hex()[:8]} unpaid" for root in said - paid]
