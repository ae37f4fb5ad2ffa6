"""`splitfed status`: one screen that says what a run does, what it waits for, and what to do."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from splitfed.cli.words import whole_round
from splitfed.errors import ContractMismatch, Difference, PeerUnreachable
from splitfed.founding import Newcomer, Proposal, found, join, sources_of
from splitfed.rounds.spending import Unaccounted
from splitfed.run.words import last_words
from splitfed.store import RunFolder
from splitfed.store.lock import FolderLock
from tests.support.commands import Shell
from tests.support.folders import new_folder, payload_of, row_of, sign, state_after
from tests.support.pictures import CLASSES, write_pictures
from tests.support.ports import free_port
from tests.support.waits import Bench, logged


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path / "alice", patience=600.0)
    yield it
    it.folder.close()


def waiting(bench: Bench, seconds: float) -> str:
    """Alice waits for an update of Bob since so long; returns her run folder."""
    bench.telling.phase("exchanging", 3)
    began = bench.net.now
    while (passed := bench.net.now - began) < seconds:
        bench.waiting.take(["bob"], "update", {"bob": passed})
    bench.telling.refresh()
    return str(bench.folder.path)


def test_status_says_what_is_awaited_of_whom_and_what_becomes_of_it(
    shell: Shell, bench: Bench
) -> None:
    bench.says("training", 7, 63)
    folder = waiting(bench, 125)
    answer = shell("status", folder)
    assert answer.code == 0, answer.error
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert lines[0] == "party alice"
    assert lines[1].startswith(f"process running, process {os.getpid()}, as of ")
    assert "now round 3 of 4, waiting for the update of bob for 2 min (since " in lines[2]
    assert lines[3].startswith("if nothing changes, in 7 min it ends with exit code 3; run again")
    assert lines[4].startswith("peer bob connected, last heard ")
    assert lines[5].startswith("it said: round 3 training, step 7 of 63; unchanged for ")
    assert lines[-1] == "closed no round yet"
    assert max(len(line) for line in answer.out.splitlines()) < 120


def test_a_lost_link_is_told_with_since_when_and_the_way_to_the_peer(
    shell: Shell, bench: Bench
) -> None:
    bench.net.cut(bench.line)
    waiting(bench, 3)
    bench.net.now += 250
    out = shell("status", waiting(bench, 3)).out
    assert "reconnecting since 4 min, last heard 4 min ago" in out
    assert "it dials us at tcp://127.0.0.1:7001" in out


def test_a_peer_that_never_came_is_told_with_what_to_do(shell: Shell, bench: Bench) -> None:
    entry: dict[str, Any] = {
        "state": "absent", "met": False, "left": "", "since_state_s": 5.0, "phase": None,
        "round": None, "step": None, "steps": None, "since_change_s": None,
        "last_sign_of_life_s": 9.0, "awaiting": "", "last_error": None,
        "route": "we dial tcp://hospital-a.example:7001",
    }  # fmt: skip
    waiting(bench, 3)
    bench.folder.set_status({**bench.status_file(), "peers": {"bob": entry}})
    out = shell("status", bench.folder.path).out
    assert "not there yet" in out
    assert "we dial tcp://hospital-a.example:7001" in out
    assert "start `splitfed run` on their side" in out
    assert "last heard" not in out
    told = "bob cannot be reached at tcp://x:1: nobody listens there\n  cure: is it \x1b[2Jup?"
    entry["last_error"] = told
    bench.folder.set_status({**bench.status_file(), "peers": {"bob": entry}})
    out = shell("status", bench.folder.path).out
    assert "nobody listens there" in out
    assert "cure: is it ?[2Jup?" in out


def test_of_a_peer_that_left_the_last_word_is_told(shell: Shell, bench: Bench) -> None:
    bench.says("training", 7, 63)
    waiting(bench, 3)
    said = bench.status_file()
    gone = {**said["peers"]["bob"], "state": "left", "left": "interrupted"}
    bench.folder.set_status({**said, "peers": {"bob": gone}})
    out = shell("status", bench.folder.path).out
    assert "ago (interrupted)\n" in out
    assert "its last word: round 3 training, step 7 of 63\n" in out


def test_without_patience_status_says_that_the_run_waits_for_ever(
    shell: Shell, tmp_path: Path
) -> None:
    bench = Bench(tmp_path / "alice")
    with bench.folder:
        assert "it waits for ever" in shell("status", waiting(bench, 3)).out


def test_with_finish_alone_status_says_when_that_will_be(shell: Shell, tmp_path: Path) -> None:
    bench = Bench(tmp_path / "alice", patience=90.0, on_absent="finish-alone")
    with bench.folder:
        out = shell("status", waiting(bench, 20)).out
        assert "if nothing changes, in 1 min it finishes alone (exit code 5)" in out


def test_json_holds_all_that_status_shows(shell: Shell, bench: Bench) -> None:
    found: Any = json.loads(shell("status", waiting(bench, 3), "--json").out)
    assert found["running_pid"] == os.getpid()
    assert 0 <= found["age_s"] < 60
    assert found["waiting"]["of"] == ["bob"]
    assert found["peers"]["bob"]["state"] == "connected"
    assert (found["closed_round"], found["last_round"]) == (0, None)


def test_how_old_the_news_are_does_not_depend_on_a_clock_that_was_set(
    shell: Shell, bench: Bench
) -> None:
    waiting(bench, 3)
    path = bench.folder.path / "status.json"
    said = json.loads(path.read_text())
    for wrong in ("1999-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"):
        path.write_text(json.dumps({**said, "updated_at": wrong}))
        assert json.loads(shell("status", bench.folder.path, "--json").out)["age_s"] < 60


def test_the_budget_and_epsilon_are_told_rounded_up(shell: Shell, tmp_path: Path) -> None:
    account = Unaccounted()
    account.epsilon = lambda kinds: 2.301 * len(kinds)
    account.standing = {"data_id": "chest", "spent_epsilon": 3.141, "budget_epsilon": 10.0}
    bench = Bench(tmp_path / "alice", spending=account)
    row = {
        "round": 1, "outcome": "agreed", "train_loss": 0.25, "validation_accuracy": None,
        "train_s": 1.0, "exchange_s": 0.02, "wait_s": 0.5, "bytes_sent": 1, "bytes_received": 1,
        "epsilon": 2.301,
    }  # fmt: skip
    with bench.folder as folder:
        manifest, payload = payload_of(1.0)
        folder.release(row_of(manifest, 1), payload, manifest, sign=sign)
        bench.telling.spent()
        folder.close_round(1, "agreed", bytes(32), state_after(1), row)
        bench.telling.phase("training", 2)
        out = shell("status", folder.path).out
    assert whole_round(row) in out
    assert "epsilon 2.31 for all that has left; budget of chest: 10, 3.15 spent" in out


# --- starting and ended ------------------------------------------------------------------


def test_a_run_that_has_only_made_its_folder_is_starting(shell: Shell, tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    try:
        answer = shell("status", tmp_path)
    finally:
        lock.release()
    assert answer.code == 0, answer.error
    assert "starting" in answer.out
    assert f"process {os.getpid()}" in answer.out


def test_a_folder_that_is_not_there_yet_and_one_above_are_told_apart(
    shell: Shell, tmp_path: Path
) -> None:
    answer = shell("status", tmp_path / "runs" / "a")
    assert answer.code == 2
    assert "a run that was started just now makes it within some seconds" in answer.error
    new_folder(tmp_path / "runs" / "a").close()
    answer = shell("status", tmp_path / "runs")
    assert answer.code == 2
    assert f"it holds run folders: {tmp_path}/runs/a" in answer.error
    (tmp_path / "party.toml").touch()
    for wrong in (tmp_path, tmp_path / "party.toml"):
        assert f"it holds run folders: {tmp_path}/runs/a" in shell("status", wrong).error


def test_last_words_of_a_run_that_failed_name_code_reason_and_cure(
    shell: Shell, tmp_path: Path
) -> None:
    with (
        suppress(PeerUnreachable),
        new_folder(tmp_path / "a") as folder,
        last_words(folder),
    ):
        raise PeerUnreachable("b showed no progress for 600 s", "ring b")
    out = shell("status", tmp_path / "a").out
    assert "not running" in out
    assert "ended with exit code 3: b showed no progress for 600 s" in out
    assert "ring b" in out
    (ended,) = logged(tmp_path / "a", "ended")
    assert (ended["exit_code"], ended["reason"]) == (3, "b showed no progress for 600 s")


def test_the_fields_in_which_two_agreements_differ_are_told_as_well(
    shell: Shell, tmp_path: Path
) -> None:
    with (
        suppress(ContractMismatch),
        new_folder(tmp_path / "a") as folder,
        last_words(folder),
    ):
        raise ContractMismatch("b", [Difference("rounds", "3", "5")])
    out = shell("status", tmp_path / "a").out
    assert "ended with exit code 2: the agreement differs from that of b\n" in out
    assert " rounds: mine 3 | theirs 5\n" in out
    assert "give every party the same file" in out


def test_a_run_that_was_stopped_says_so(shell: Shell, tmp_path: Path) -> None:
    with (
        suppress(KeyboardInterrupt),
        new_folder(tmp_path / "a") as folder,
        last_words(folder),
    ):
        raise KeyboardInterrupt
    out = shell("status", tmp_path / "a").out
    assert "ended with exit code 130: stopped by its operator" in out
    assert "run the same command again to go on" in out


def test_a_run_that_was_killed_is_not_taken_for_one_that_waits(shell: Shell, bench: Bench) -> None:
    waiting(bench, 3)
    bench.folder.close()
    out = shell("status", bench.folder.path).out
    assert "not running" in out
    assert "waiting for the update of bob" in out
    assert "then it was killed, or the machine went down" in out
    assert "run the same command again: it goes on" in out


def test_a_status_file_of_another_version_is_not_guessed_at(shell: Shell, tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as folder:
        folder.set_status({"schema": 99, "phase": "waiting", "waiting": "?", "peers": 7})
        answer = shell("status", folder.path)
    assert answer.code == 0, answer.error
    assert "nothing yet" in answer.out


# --- the whole of it ---------------------------------------------------------------------


def test_a_run_whose_peer_never_comes_ends_with_3_and_then_alone_with_5(
    shell: Shell, tmp_path: Path
) -> None:
    write_pictures(tmp_path / "pictures")

    def newcomer(name: str, address: str | None) -> Newcomer:
        sources = sources_of(str(tmp_path / "pictures"), tmp_path / name)
        return Newcomer(party=name, address=address, records=None, sources=sources)

    proposal = Proposal(
        name="pair", classes=CLASSES, rounds=1, arguments={"widths": [4, 4, 4]}, privacy="none"
    )
    address = f"tcp://127.0.0.1:{free_port()}"
    made = found(tmp_path / "a", proposal, newcomer("a", address))
    join(tmp_path / "b", made.federation_file, newcomer("b", None))
    party = tmp_path / "b" / "party.toml"
    party.write_text(party.read_text().replace("patience = 0", "patience = 0.3"))
    folder = tmp_path / "b" / "runs" / "b"

    answer = shell("run", party)
    assert answer.code == 3, answer.error
    assert "a showed no progress" in answer.error
    out = shell("status", folder).out
    assert "ended with exit code 3: a showed no progress" in out
    assert "run again when the peer is back" in out

    text = party.read_text().replace('on_absent = "wait"', 'on_absent = "finish-alone"')
    party.write_text(text)
    answer = shell("run", party)
    assert answer.code == 5, answer.error
    assert (folder / "model.safetensors").is_file()
    assert (
        "ended with exit code 5: finished alone: a showed no progress"
        in shell("status", folder).out
    )
    assert [e["exit_code"] for e in logged(folder, "ended")] == [3, 5]
    assert len(logged(folder, "alone")) == 1
    with RunFolder.read_only(folder) as view:
        assert view.ledger.rows() == ()


def test_status_says_who_votes_what_was_missed_and_who_was_shut_out(
    shell: Shell, tmp_path: Path
) -> None:
    row = {
        "round": 2, "outcome": "missed", "train_loss": None, "validation_accuracy": None,
        "train_s": 0.0, "exchange_s": 0.0, "wait_s": 0.0, "bytes_sent": 0, "bytes_received": 0,
        "epsilon": None,
    }  # fmt: skip
    with new_folder(tmp_path / "a") as folder:
        rows = [(number, b"1" * 32, {**row, "round": number}) for number in (1, 2)]
        folder.close_missed(rows, state_after(2))
        folder.note_view(1, 3, ["a", "b"])
        folder.quarantine("c", "lied \x1b[2J")
    answer = shell("status", str(tmp_path / "a"))
    assert answer.code == 0, answer.error
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "closed round 2: missed, the others went on without this party; taken over" in lines
    assert "voting a, b" in lines
    assert "shut out c: lied ?[2J" in lines
    found = json.loads(shell("status", str(tmp_path / "a"), "--json").out)
    assert (found["closed_round"], found["members"]) == (2, ["a", "b"])
