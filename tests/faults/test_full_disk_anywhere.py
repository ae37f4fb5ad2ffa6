"""The disk of either party fills up at any durable point: an error with a cure, and no loss."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from splitfed.errors import FolderError
from tests.support.crash import QuickDisk
from tests.support.folders import FullDisk
from tests.support.trials import PAIR, End, faults, pair, return_of, undisturbed, unsure

CHANGES = {"rounds": 2}


class Filling(FullDisk, QuickDisk):
    """Full after some calls, and never synced in earnest."""


def filled_after(path: Path, victim: str, left: int, calm: dict[str, End]) -> list[str] | None:
    """Let the disk of ``victim`` take ``left`` durable calls, make space and run it again;
    returns what is wrong, or None where it ended before the disk was full."""
    town = pair(path, **CHANGES)
    town.disks[victim] = Filling(left)
    for name in PAIR:
        town.start(name)
    town.wait(victim)
    error, found = town.endings[victim], []
    if not isinstance(error, BaseException):
        town.wait()
        return faults(town, calm) or None
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
        found = filled_after(tmp_path / str(left), victim, left, calm)
        if found is None:
            break
        wrong += [f"full after {left} calls: {fault}" for fault in found]
    assert not wrong, "\n".join(wrong)
    assert left >= 40
