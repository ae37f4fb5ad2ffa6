"""Three times ``kill -9``: while the peers exchange, between vote and close, after the last round.

The processes are those that a user starts. Afterwards everything is bit for bit as in a pair
that nothing happened to.
"""

from __future__ import annotations

import signal
from pathlib import Path

from splitfed.store import RunFolder
from tests.support.pairs import (
    NAMES,
    end,
    here,
    killed,
    make_pair,
    report,
    run_both,
    start,
    start_dying,
    until,
)

VOTED, ENDED = "000004.safetensors", "model.safetensors"
"""What a party writes after its vote of round 2 and before it closes it: its fourth checkpoint;
and what it writes once the federation is over and confirmed."""


def rough(where: Path) -> None:
    """Run the pair through three kills to its end."""
    first, second = start(where, "a"), start_dying(where, "b", VOTED)
    until(first, "round 1: agreed")
    first.send_signal(signal.SIGKILL)  # in the second round's training or exchange
    killed(first)
    first = start(where, "a")
    killed(second)
    with RunFolder.read_only(where / "b" / "runs" / "b") as folder:
        assert folder.own_vote(2) is not None
        assert [row["round"] for row in folder.history()] == [1]
    killed(start_dying(where, "b", ENDED))
    code, out, error = end(first)
    assert code == 0, out + error
    with RunFolder.read_only(where / "b" / "runs" / "b") as folder:
        assert folder.confirmed
    again = here(where, "b")
    assert again.code == 0, again.error


def test_after_three_kills_models_and_tensors_are_those_of_an_undisturbed_pair(
    tmp_path: Path,
) -> None:
    calm, hit = make_pair(tmp_path / "calm"), make_pair(tmp_path / "hit")
    (code, out, error), other = run_both(calm)
    assert (code, other.code) == (0, 0), out + error + other.error
    rough(hit)
    for name in NAMES:
        ours, theirs = (where / name / "runs" / name for where in (hit, calm))
        assert report(hit, name)["shared_digest"] == report(calm, name)["shared_digest"]
        files = sorted(path.name for path in theirs.glob("*.safetensors"))
        assert files == ["members.safetensors", "model.safetensors"][name != "a" :]
        for file in files:
            assert (ours / file).read_bytes() == (theirs / file).read_bytes(), f"{name}: {file}"
        with RunFolder.read_only(ours) as folder, RunFolder.read_only(theirs) as wanted:
            rows = folder.history()
            assert [(row["round"], row["outcome"]) for row in rows] == [
                (1, "agreed"), (2, "agreed"), (3, "agreed"),
            ]  # fmt: skip
            assert [row["train_loss"] for row in rows] == [
                row["train_loss"] for row in wanted.history()
            ]
            assert [(e.row.round, e.row.root) for e in folder.ledger.rows()] == [
                (e.row.round, e.row.root) for e in wanted.ledger.rows()
            ]
            folder.verify()
