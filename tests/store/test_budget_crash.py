"""Stop a paid release at every durable point: what was sent was paid for, exactly once.

The party does what the round engine does: it asks the budget for the release; a debited one
is sent again from its stored bytes, and only one without a debit gets new noise. The budget
lies inside the run folder here, so that one image of a crash holds both.
"""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitfed.store import BUDGET, Budget, Disk, RunFolder, release_id
from splitfed.types import Manifest
from tests.support.budgets import anything, debit_of, opened
from tests.support.crash import IMAGES, Crash, CrashDisk, Image
from tests.support.folders import RUN, new_folder, payload_of, row_of, sign

ROUND = 2
RELEASE = release_id(RUN, "a", ROUND, "update")


def open_budget(root: Path, disk: Disk | None = None) -> Budget:
    return opened(root / BUDGET, disk=disk)


def pay(folder: RunFolder, budget: Budget, made: tuple[Manifest, bytes], round: int) -> None:
    manifest, payload = made
    folder.release(
        row_of(manifest, round),
        payload,
        manifest,
        debit=lambda: budget.spend(debit_of(round, root=manifest.root), anything),
        sign=sign,
    )


def release(folder: RunFolder, budget: Budget, noise: float) -> bytes:
    """Release round 2 as a party does that may have died in it before; returns what is sent."""
    known = budget.find(RELEASE)
    if known is None:
        made = payload_of(noise)
    else:
        payload = folder.outbox.get(known.root)
        manifest = folder.outbox.manifest(known.root)
        assert payload is not None, "paid, and cannot be sent"
        assert manifest is not None
        made = manifest, payload
    pay(folder, budget, made, ROUND)
    return made[1]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A party that has paid for round 1; tests copy it."""
    root = tmp_path_factory.mktemp("begun") / "a"
    with new_folder(root) as folder, open_budget(root) as budget:
        pay(folder, budget, payload_of(1.0), 1)
    return root


@dataclass
class Crashed:
    """A crash before durable point ``stop``: what it left, and what had been sent."""

    image: Path
    sent: bytes | None
    ended: bool


def crash(begun: Path, path: Path, stop: int, kind: Image) -> Crashed:
    live, image = path / "live", path / "image"
    shutil.copytree(begun, live)
    disk, sent = CrashDisk(live), None
    with new_folder(live, disk=disk) as folder, open_budget(live, disk) as budget:
        disk.arm(stop, image, kind)
        try:
            sent = release(folder, budget, noise=2.0)
            ended = len(disk.points) <= stop
            disk.image(image, kind)  # the process dies right after sending
        except Crash:
            ended = False
    return Crashed(image, sent, ended)


def check_promises(folder: RunFolder, budget: Budget, sent: bytes | None) -> None:
    """What was sent is recorded, what is recorded was paid, what was paid can be sent."""
    recorded, paid = folder.ledger.find(RELEASE), budget.find(RELEASE)
    if sent is not None:
        assert recorded is not None, "sent, and the ledger does not know"
        assert folder.outbox.get(recorded.row.root) == sent
    if recorded is not None:
        assert paid is not None, "recorded, and not paid"
        assert paid.root == recorded.row.root
    if paid is not None:
        assert folder.outbox.get(paid.root) is not None, "paid, and cannot be sent"


@pytest.mark.parametrize("kind", IMAGES)
def test_after_a_crash_at_any_point_what_was_sent_was_paid_exactly_once(
    tmp_path: Path, begun: Path, kind: Image
) -> None:
    states = set()
    for stop in itertools.count():
        found = crash(begun, tmp_path / f"{stop}", stop, kind)
        with new_folder(found.image) as folder, open_budget(found.image) as budget:
            check_promises(folder, budget, found.sent)
            before = budget.debits()
            assert before[0].round == 1
            states.add((len(before), len(folder.ledger.rows())))
            resent = release(folder, budget, noise=3.0)  # new noise, where it is allowed
            after = budget.debits()
            assert after[: len(before)] == before
            assert [debit.round for debit in after] == [1, ROUND], "paid twice, or not at all"
            assert found.sent in (None, resent), "other noise under the same name"
            check_promises(folder, budget, resent)
            assert release(folder, budget, noise=4.0) == resent
            assert budget.debits() == after
            marked = [row for row in folder.ledger.rows() if row.row.round == ROUND]
            assert len(marked) == 1
        if found.ended:
            break
    assert stop == 6, "four for the file, one for the debit, one for the row"
    assert states == {(1, 1), (2, 1), (2, 2)}, "nothing; paid; paid and recorded"


@pytest.mark.parametrize("kind", IMAGES)
def test_a_ledger_row_is_never_without_its_debit(tmp_path: Path, begun: Path, kind: Image) -> None:
    for stop in itertools.count():
        found = crash(begun, tmp_path / f"{stop}", stop, kind)
        with new_folder(found.image) as folder, open_budget(found.image) as budget:
            rows = folder.ledger.rows()
            paid = {debit.release: debit.root for debit in budget.debits()}
            for entry in rows:
                assert paid[entry.row.release] == entry.row.root
        if found.ended:
            break


@pytest.mark.parametrize("kind", IMAGES)
def test_after_a_crash_while_a_budget_is_made_it_can_be_made(tmp_path: Path, kind: Image) -> None:
    for stop in itertools.count():
        live, image = tmp_path / f"live{stop}", tmp_path / f"image{stop}"
        live.mkdir()
        disk = CrashDisk(live)
        disk.arm(stop, image, kind)
        try:
            open_budget(live, disk).close()
        except Crash:
            with open_budget(image) as budget:
                assert budget.debits() == ()
                assert budget.verify() == 1
        else:
            break
    assert stop == 2, "a commit and the sync of its folder"


def test_a_release_that_is_paid_and_not_recorded_is_only_recorded(
    tmp_path: Path, begun: Path
) -> None:
    """Also when its outbox file has to be written again from the same bytes."""
    shutil.copytree(begun, tmp_path / "a")
    made = payload_of(2.0)
    with new_folder(tmp_path / "a") as folder, open_budget(tmp_path / "a") as budget:
        folder.outbox.put(*made)
        budget.spend(debit_of(ROUND, root=made[0].root), anything)
        assert release(folder, budget, noise=3.0) == made[1]
        assert [debit.root for debit in budget.debits()][1:] == [made[0].root]
        folder.outbox.remove([made[0].root])
        pay(folder, budget, made, ROUND)
        assert folder.outbox.get(made[0].root) == made[1]
        assert len(budget.debits()) == len(folder.ledger.rows()) == 2


def test_one_paid_release_costs_one_sync_more(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path / "a")
    disk = CrashDisk(tmp_path / "a")
    with (
        new_folder(tmp_path / "a", disk=disk) as folder,
        open_budget(tmp_path / "a", disk) as budget,
    ):
        disk.points.clear()
        release(folder, budget, noise=2.0)
    assert disk.points[-2:] == ["commit", "commit"]
    assert disk.points.count("commit") == 2
