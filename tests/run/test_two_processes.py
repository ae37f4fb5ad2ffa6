"""Two real processes over a real socket: what `splitfed run` promises from outside."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

import pytest

from splitfed.founding import DIGITS, Proposal, found
from splitfed.store import Disk, RunFolder
from tests.support.commands import Answer
from tests.support.crash import Crash
from tests.support.pairs import (
    NAMES,
    end,
    here,
    make_pair,
    newcomer,
    report,
    run_both,
    start,
    until,
)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return make_pair(tmp_path)


def stranger(where: Path, index: int) -> dict[str, str]:
    """Keys of a party that nobody agreed on; its folder is ``where / "other"``."""
    proposal = Proposal(name="x", classes=DIGITS, privacy="none")
    found(where / "other", proposal, newcomer(index, where, "tcp://127.0.0.1:1"))
    return json.loads((where / "other" / "secret.json").read_text())


def uninvited(where: Path) -> Path:
    """A copy of b's folder with keys that b made up after the agreement was closed."""
    shutil.copytree(where / "b", where / "uninvited" / "b")
    mine, own = stranger(where / "uninvited", 1), where / "uninvited" / "b"
    text = (own / "federation.toml").read_text()
    agreed = json.loads((own / "secret.json").read_text())
    for key in ("curve_public", "signing_public"):
        assert agreed[key] in text
        text = text.replace(agreed[key], mine[key])
    (own / "federation.toml").write_text(text)
    shutil.copy(where / "uninvited" / "other" / "secret.json", own / "secret.json")
    return own.parent


def misled(where: Path) -> Path:
    """A copy of b's folder whose agreement pins another key as that of a."""
    shutil.copytree(where / "b", where / "misled" / "b")
    wrong = stranger(where / "misled", 0)["curve_public"]
    right = json.loads((where / "a" / "secret.json").read_text())["curve_public"]
    file = where / "misled" / "b" / "federation.toml"
    text = file.read_text()
    assert right in text
    file.write_text(text.replace(right, wrong))
    return file.parents[1]


@dataclass(frozen=True, kw_only=True)
class Story:
    """One federation from its first greeting on, and who came by while a was waiting for b.

    Attributes:
        where: both parties' folders, as the federation left them.
        uninvited, misled, checked: what a stranger, a b with a wrong key of a, and b's check
            were told while a waited.
        ends: exit code, output and errors of a's and b's run.
        again: what a was told when it ran once more.
        before: a's model before that.
    """

    where: Path
    uninvited: Answer
    misled: Answer
    checked: Answer
    ends: dict[str, tuple[int, str, str]]
    again: Answer
    before: bytes

    def model(self) -> bytes:
        return (self.where / "a" / "runs" / "a" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    where = make_pair(tmp_path_factory.mktemp("story"))
    listener = start(where, "a")
    try:
        until(listener, "meeting")
        found: dict[str, Any] = {
            "uninvited": here(uninvited(where), "b"),
            "misled": here(misled(where), "b"),
            "checked": here(where, "b", "--json", command="check"),
        }
        b = here(where, "b")
        if b.code != 0:
            listener.send_signal(signal.SIGINT)
        ends = {"a": end(listener), "b": (b.code, b.out, b.error)}
    finally:
        if listener.poll() is None:
            listener.kill()
            listener.communicate()
    before = (where / "a" / "runs" / "a" / "model.safetensors").read_bytes()
    return Story(where=where, ends=ends, before=before, again=here(where, "a"), **found)


def test_two_processes_train_together(story: Story) -> None:
    for code, out, error in story.ends.values():
        assert code == 0, out + error
        assert "NO PRIVACY" in out or "report" in out
    a, b = report(story.where, "a"), report(story.where, "b")
    assert a["shared_digest"] == b["shared_digest"]
    assert a["contract"] == b["contract"]
    assert [row["outcome"] for row in a["history"]] == ["agreed"] * 3
    assert {s["name"] for s in a["model"]["shared"]} == {
        "conv1.bias", "conv1.weight", "conv2.bias", "conv2.weight"
    }  # fmt: skip
    payload = 3 * 18_816 * 4
    assert a["traffic"]["payload_bytes_sent"] == payload == b["traffic"]["payload_bytes_received"]
    assert a["traffic"]["wire_bytes_sent"] <= 1.02 * payload + 3 * 2048 + 8192
    assert a["verdict"] is not None
    assert b["verdict"] is None


def test_a_second_run_does_nothing(story: Story) -> None:
    assert story.again.code == 0
    assert "is finished" in story.again.told
    assert story.model() == story.before


@pytest.mark.parametrize(
    "of_then", [{"history": [], "rounds": 0}, {"outcome": "budget", "confirmed": False}]
)
def test_a_report_of_an_earlier_end_does_not_count_as_that_of_this_one(
    story: Story, of_then: dict[str, Any]
) -> None:
    """Rounds were added or a budget raised, and a kill came before the new model was written."""
    now = report(story.where, "a")
    file = story.where / "a" / "runs" / "a" / "report.json"
    file.write_text(json.dumps({**now, **of_then}))
    answer = here(story.where, "a")
    assert answer.code == 0, answer.told
    assert "is finished" not in answer.told
    again = report(story.where, "a")
    assert [again[key] for key in of_then] == [now[key] for key in of_then]
    assert story.model() == story.before


def test_a_key_that_is_not_on_the_list_is_refused_at_once(story: Story) -> None:
    assert story.uninvited.code == 3
    assert "key" in story.uninvited.error


def test_a_pinned_key_that_is_not_theirs_is_told_apart(story: Story) -> None:
    assert story.misled.code == 3
    assert "the agreement pins" in story.misled.error


def test_check_finds_a_waiting_run_and_disturbs_nothing(story: Story) -> None:
    assert story.checked.code == 0, story.checked.told
    assert json.loads(story.checked.out)[0]["ok"] is True
    assert {name: code for name, (code, _, _) in story.ends.items()} == {"a": 0, "b": 0}


def test_differing_agreements_are_shown_side_by_side_on_both_sides(pair: Path) -> None:
    file = pair / "b" / "federation.toml"
    file.write_text(file.read_text().replace("rounds = 3", "rounds = 5"))
    (a, _, a_error), b = run_both(pair)
    for code, error in ((a, a_error), (b.code, b.error)):
        assert code == 2, error
        assert "rounds" in error
        assert "3" in error
        assert "5" in error
    for name in NAMES:
        with RunFolder.read_only(pair / name / "runs" / name) as folder:
            assert folder.ledger.rows() == ()


def test_two_runs_in_one_folder_are_refused_by_process_id(pair: Path) -> None:
    first = start(pair, "a")
    try:
        until(first, "meeting")  # from here on it holds the folder
        second = here(pair, "a")
        assert second.code == 2
        assert str(first.pid) in second.error
    finally:
        first.send_signal(signal.SIGINT)
        assert end(first)[0] == 130


def test_a_run_goes_on_after_a_kill_in_the_moment_in_which_its_folder_was_made(pair: Path) -> None:
    class Dying(Disk):
        def commit(self, connection: Connection) -> None:
            raise Crash

    path = pair / "a" / "runs" / "a"
    with pytest.raises(Crash):
        RunFolder.open(path, party="a", contract=b"c" * 32, disk=Dying())
    assert (path / "ledger.sqlite").is_file()
    assert here(pair, "a", command="plan").code == 0
    first = start(pair, "a")
    try:
        until(first, "meeting")
    finally:
        first.send_signal(signal.SIGINT)
    assert end(first)[0] == 130
