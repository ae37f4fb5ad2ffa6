"""The disk of either party fills up at any durable point: an error with a cure, and no loss.

Full for ever from some call on, or for one file alone: it is too large for what is left, and all
that comes after it is small enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from splitfed.store.durable import Bytes
from tests.support.crash import MODELLED, QuickDisk
from tests.support.folders import FullDisk
from tests.support.trials import PAIR, End, faults, pair, return_of, undisturbed, unsure

CHANGES = {"rounds": 2}
ENOUGH = 5
"""Faults after which no further place is tried."""


class Filling(FullDisk, QuickDisk):
    """Full after ``left`` calls, and never synced in earnest.

    Attributes:
        refused: whether it was full for any call.
    """

    refused = False

    def _spend(self) -> None:
        self.refused = self.refused or self.left == 0
        super()._spend()


class TooSmall(Filling):
    """Has space for everything but one file, the first time it is written.

    Attributes:
        path: where that file is to be, from the run folder on; None: there is space for all.
        written: what was written, or begun, so far.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(None)
        self.path = path
        self.written: list[Path] = []

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        here = path.relative_to(path.parent.parent)
        if here == self.path and here not in self.written:
            self.left = 0
        self.written.append(here)
        try:
            super().write_file(path, parts)
        finally:
            self.left = None


def filled(path: Path, victim: str, disk: Filling, calm: dict[str, End]) -> list[str]:
    """Let ``victim`` run on a disk that fills up, make space and run it again; returns what is
    wrong."""
    town = pair(path, **CHANGES)
    town.disks[victim] = disk
    for name in PAIR:
        town.start(name)
    town.wait(victim)
    error, found = town.endings[victim], []
    if not isinstance(error, BaseException):
        town.wait()
        return ["went on as if nothing were missing"] * disk.refused + faults(town, calm)
    if not isinstance(error, FolderError) or error.exit_code != 2:
        found.append(f"ended with {error!r}")
    elif "no space is left" not in error.message or str(town.folders[victim]) not in error.message:
        found.append(f"says {error.message!r}")
    return_of(town, victim)
    # Full at the very last commit, the peer has gone: nobody is left to tell it anything.
    return found + faults(town, calm, unconfirmed=unsure(town, victim))


@pytest.mark.parametrize("victim", PAIR)
def test_a_full_disk_at_any_durable_point_is_named_and_loses_nothing(
    tmp_path: Path, victim: str
) -> None:
    calm, wrong = undisturbed(tmp_path / "calm", **CHANGES), []
    for left in itertools.count():
        disk = Filling(left)
        found = filled(tmp_path / str(left), victim, disk, calm)
        wrong += [f"full after {left} calls: {fault}" for fault in found]
        if not disk.refused or len(wrong) > ENOUGH:
            break
    assert not wrong, "\n".join(wrong)
    assert left >= 40


@pytest.mark.parametrize("victim", PAIR)
def test_a_disk_too_full_for_one_file_is_named_though_all_after_it_would_fit(
    tmp_path: Path, victim: str
) -> None:
    # Each file by its name, and not by how many came before it: which of two payloads is
    # written first, the own one or the peer's, is never the same.
    calm, roomy = undisturbed(tmp_path / "calm", **CHANGES), TooSmall()
    wrong = filled(tmp_path / "roomy", victim, roomy, calm)
    for number, file in enumerate(roomy.written):
        disk = TooSmall(file)
        found = filled(tmp_path / str(number), victim, disk, calm)
        found += ["was never full"] * (not disk.refused)
        wrong += [f"no space for {file}: {fault}" for fault in found]
        if len(wrong) > ENOUGH:
            break
    assert not wrong, "\n".join(wrong)
    assert {file.parent.name for file in roomy.written} == set(MODELLED)
    assert len(roomy.written) >= 8, "in each round an update of either party and two checkpoints"
