"""Stop at every durable point, drop what was not synced, open again: before or after.

A scenario is a sequence of steps of a round. It is run undisturbed once, which counts its
durable points and records what the folder says after each step; then once for each point
and each image that a crash can leave. The next process must find what the folder says after
one of the steps and nothing else, and doing the scenario again must end where the
undisturbed run ended.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from splitfed.store import Checkpoint, RunFolder, release_id
from tests.support.crash import IMAGES, Crash, CrashDisk, Image
from tests.support.folders import RUN, close, new_folder, payload_of, row_of, sign, state_after

Sent = list[str]
Step = Callable[[RunFolder, Sent], None]

MINE, THEIRS = payload_of(2.0), payload_of(20.0)
OLD = {"a": payload_of(1.0), "b": payload_of(10.0)}


def release(folder: RunFolder, sent: Sent) -> None:
    manifest, payload = MINE
    folder.release(row_of(manifest, 2), payload, manifest, sign=sign)
    sent.append("update")


def receive(folder: RunFolder, sent: Sent) -> None:
    folder.inbox.put(*THEIRS)
    sent.append("stored")


def vote(folder: RunFolder, sent: Sent) -> None:
    with folder.batch():
        folder.save_input(2, "a", b"my offer", MINE[0].root)
        folder.save_input(2, "b", b"their offer", THEIRS[0].root)
        folder.save_vote(2, 0, "a", b"my vote", b"signed")
    sent.append("vote")


def train(folder: RunFolder, sent: Sent) -> None:
    folder.save_checkpoint(Checkpoint(round=2, tensors={}, meta={"phase": "trained"}))


def end(folder: RunFolder, sent: Sent) -> None:
    with folder.batch():
        folder.save_vote(2, 0, "b", b"their vote", b"signed")
        close(folder, 2)
    sent.append("closed")


def end_alone(folder: RunFolder, sent: Sent) -> None:
    close(folder, 2, "alone")


def sign_view(folder: RunFolder, sent: Sent) -> None:
    for party in ("b", "a"):
        folder.save_statement(view=1, round=2, party=party, body=b"1", signature=b"s")
    sent.append("statement")


def make_view(folder: RunFolder, sent: Sent) -> None:
    with folder.batch():
        folder.note_view(1, 2, ["a", "b"])
        folder.quarantine("c", "lied")
        folder.drop_statements(below=1)


def miss(folder: RunFolder, sent: Sent) -> None:
    rows = [(round, bytes([round]) * 32, {"round": round}) for round in (2, 3, 4)]
    folder.close_missed(rows, state_after(4))
    sent.append("closed")


def prune(folder: RunFolder, sent: Sent) -> None:
    folder.prune()


def confirm(folder: RunFolder, sent: Sent) -> None:
    folder.confirm()
    sent.append("goodbye")


SCENARIOS: dict[str, tuple[Step, ...]] = {
    "release": (release,),
    "receive": (receive,),
    "vote": (vote,),
    "checkpoint": (train,),
    "close": (end,),
    "close alone": (end_alone,),
    "view": (make_view,),
    "missed": (miss,),
    "round": (release, receive, vote, end, prune, confirm),
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has closed round 1; tests copy it."""
    path = tmp_path_factory.mktemp("begun") / "a"
    with new_folder(path) as folder:
        folder.fix_run(RUN, {"b": b"B" * 16})
        folder.release(row_of(OLD["a"][0], 1), OLD["a"][1], sign=sign)
        folder.inbox.put(*OLD["b"])
        for party, (manifest, _) in OLD.items():
            folder.save_input(1, party, b"offer", manifest.root)
        close(folder, 1)
    return path


def says(folder: RunFolder) -> dict[str, Any]:
    """What the folder says happened; the checkpoint's file is read and verified."""
    checkpoint = folder.checkpoint()
    return {
        "closed": folder.closed(),
        "confirmed": folder.confirmed,
        "checkpoint": None if checkpoint is None else (checkpoint.round, checkpoint.meta),
        "history": folder.history(),
        "ledger": [(entry.head, entry.row) for entry in folder.ledger.rows()],
        "inputs": [folder.inputs(round) for round in (1, 2)],
        "votes": [folder.votes(round) for round in (1, 2)],
        "standing": (folder.views, folder.quarantined),
    }


def holds(folder: RunFolder) -> dict[str, Any]:
    """The payloads in the folder, each read and verified."""
    return {
        box.folder.name: {root: box.get(root) for root in box.roots()}
        for box in (folder.outbox, folder.inbox)
    }


def check_promises(folder: RunFolder, sent: Sent) -> None:
    """Whatever was told to a peer rests on something durable."""
    recorded = folder.ledger.find(release_id(RUN, "a", 2, "update"))
    if "update" in sent:
        assert recorded is not None, "sent, and the ledger does not know"
    if recorded is not None and not folder.confirmed:
        assert folder.outbox.get(recorded.row.root) == MINE[1], "recorded, and cannot be sent"
    if "stored" in sent:
        assert folder.inbox.get(THEIRS[0].root) == THEIRS[1], "acknowledged, and not there"
    if "vote" in sent:
        mine = folder.own_vote(2)
        assert mine is not None, "voted, and the folder does not know"
        assert len(folder.inputs(2)) == 2
    if "statement" in sent:
        assert any(row.party == "a" for row in folder.statements(1)), "signed, and not known"
    last = folder.closed()
    if "closed" in sent:
        assert last is not None
        assert last.round in (2, 4)
    if "goodbye" in sent:
        assert folder.confirmed


@dataclass(frozen=True)
class Undisturbed:
    """What a scenario does when nothing happens."""

    points: list[str]
    states: list[dict[str, Any]]
    payloads: dict[str, Any]


def undisturbed(steps: tuple[Step, ...], begun: Path, path: Path) -> Undisturbed:
    shutil.copytree(begun, path)
    disk = CrashDisk(path)
    with new_folder(path, disk=disk) as folder:
        states = [says(folder)]
        disk.points.clear()
        for step in steps:
            step(folder, [])
            states.append(says(folder))
        return Undisturbed(list(disk.points), states, holds(folder))


def crashed(
    steps: tuple[Step, ...], begun: Path, path: Path, stop: int, kind: Image
) -> tuple[Path, Sent]:
    """The folder that a crash before durable point ``stop`` leaves, and what was sent."""
    live, image, sent = path / "live", path / "image", Sent()
    shutil.copytree(begun, live)
    disk = CrashDisk(live)
    with new_folder(live, disk=disk) as folder:
        disk.arm(stop, image, kind)
        try:
            for step in steps:
                step(folder, sent)
            disk.image(image, kind)  # the process dies right after its last step
        except Crash:
            pass
    return image, sent


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", SCENARIOS)
def test_after_a_crash_at_any_point_the_state_is_before_or_after_each_step(
    tmp_path: Path, begun: Path, name: str, kind: Image
) -> None:
    steps = SCENARIOS[name]
    whole = undisturbed(steps, begun, tmp_path / "whole")
    assert whole.states[0] != whole.states[-1] or name == "receive"
    for stop in range(len(whole.points) + 1):
        where = [*whole.points, "the end"][stop]
        image, sent = crashed(steps, begun, tmp_path / f"{stop}", stop, kind)
        with new_folder(image) as folder:
            assert says(folder) in whole.states, where
            check_promises(folder, sent)
            holds(folder)
            for step in steps:
                step(folder, [])
            assert says(folder) == whole.states[-1], where
            assert holds(folder) == whole.payloads, where


@pytest.mark.parametrize("kind", IMAGES)
def test_a_statement_is_durable_before_it_is_sent(tmp_path: Path, begun: Path, kind: Image) -> None:
    for stop in range(4):
        image, sent = crashed((sign_view,), begun, tmp_path / f"{stop}", stop, kind)
        with new_folder(image) as folder:
            check_promises(folder, sent)
            sign_view(folder, [])
            assert [row.party for row in folder.statements(1)] == ["a", "b"]


def test_steps_end_durably(tmp_path: Path, begun: Path) -> None:
    """Once a step returned, a power loss takes nothing of it."""
    steps = SCENARIOS["round"]
    whole = undisturbed(steps, begun, tmp_path / "whole")
    for done in range(1, len(steps) + 1):
        image, _ = crashed(steps[:done], begun, tmp_path / f"{done}", 1000, "lost")
        with new_folder(image) as folder:
            assert says(folder) == whole.states[done], steps[done - 1].__name__


@pytest.mark.parametrize("kind", IMAGES)
def test_after_a_crash_while_a_folder_is_made_it_can_be_made(tmp_path: Path, kind: Image) -> None:
    for stop in itertools.count():
        live, image = tmp_path / f"live{stop}", tmp_path / f"image{stop}"
        disk = CrashDisk(live)
        disk.arm(stop, image, kind)
        try:
            new_folder(live, disk=disk).close()
        except Crash:
            with new_folder(image) as folder:
                assert folder.boot in (1, 2)
                assert folder.ledger.verify() == 0
        else:
            break
    assert stop >= 7, "four folders, two commits and a sync"


def test_boot_is_never_counted_twice_the_same(tmp_path: Path, begun: Path) -> None:
    """Peers fence by it: a folder that says a number again would be taken for its past."""
    for stop in itertools.count():
        live, image = tmp_path / f"live{stop}", tmp_path / f"image{stop}"
        shutil.copytree(begun, live)
        disk = CrashDisk(live)
        disk.arm(stop, image, "lost")
        try:
            with new_folder(live, disk=disk) as folder:
                seen = folder.boot
                disk.image(image, "lost")
        except Crash:
            continue
        with new_folder(image) as folder:
            assert folder.boot == seen + 1
        break


def test_one_round_of_two_parties_costs_few_syncs(tmp_path: Path, begun: Path) -> None:
    """Two for each payload, one for each batch of rows, and two for the checkpoint."""
    whole = undisturbed((release, receive, vote, end), begun, tmp_path / "whole")
    syncs = [point for point in whole.points if point.startswith("sync") or point == "commit"]
    assert len(syncs) == 9
