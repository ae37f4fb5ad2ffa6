"""A party that waits says for what, of whom and since when, and patience counts silence alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from splitfed.cli.screens import PlainLines
from splitfed.errors import PeerUnreachable
from splitfed.rounds import telling as telling_module
from splitfed.rounds.spending import Unaccounted
from splitfed.rounds.waiting import GoAlone
from tests.support.hostile import until
from tests.support.members import AddingLearner, Town
from tests.support.waits import Bench, logged

HOUR = 3600.0


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path / "alice", patience=60.0)
    yield it
    it.folder.close()


# --- patience ----------------------------------------------------------------------------


def test_a_peer_that_trains_for_hours_and_tells_its_steps_is_never_absent(bench: Bench) -> None:
    began = bench.net.now

    def train() -> None:
        passed = bench.net.now - began
        bench.says("training", int(passed // 30) + 1, 1000)
        bench.here = passed >= HOUR

    bench.meanwhile = train
    assert bench.wait() >= HOUR
    assert bench.log("patience", "absent") == []


def test_a_peer_that_is_connected_and_does_nothing_is_absent_after_patience(bench: Bench) -> None:
    """Its link answers, and tells the same every ten seconds: its trainer is dead."""
    began = bench.net.now
    with pytest.raises(PeerUnreachable) as caught:
        bench.wait()
    assert 60 < bench.net.now - began < 75
    assert bench.alice.talk.view.state == "connected"
    assert "bob showed no progress" in caught.value.message
    assert "run again when the peer is back" in caught.value.cure
    assert caught.value.exit_code == 3
    (warned,) = bench.log("patience")
    assert 30 < warned["silent_s"] < 45
    (absent,) = bench.log("absent")
    assert (absent["peer"], absent["for"], absent["then"]) == ("bob", "update", "wait")


def test_new_connections_without_a_new_status_are_no_progress(bench: Bench) -> None:
    bench.meanwhile = bench.flap
    began = bench.net.now
    with pytest.raises(PeerUnreachable):
        bench.wait()
    assert bench.net.now - began < 75
    assert len(bench.log("link-broken")) > 20


def test_a_status_that_changes_after_a_reconnect_is_progress(bench: Bench) -> None:
    times = iter(range(100))

    def return_with_a_step() -> None:
        at = next(times)
        if at % 50 == 49:
            bench.flap()
            bench.says("training", at, 1000)
        bench.here = at == 99

    bench.meanwhile = return_with_a_step
    assert bench.wait() > 90


def test_new_bytes_of_the_update_are_progress(bench: Bench) -> None:
    def trickle() -> None:
        bench.bytes += 1
        bench.here = bench.bytes == 200

    bench.meanwhile = trickle
    assert bench.wait() > 190


def test_with_finish_alone_the_same_silence_ends_the_federation_and_not_the_run(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path / "alice", patience=60.0, on_absent="finish-alone")
    with bench.folder, pytest.raises(GoAlone, match="bob showed no progress"):
        bench.wait()


def test_a_wall_clock_that_jumps_changes_nothing_but_the_times_shown(tmp_path: Path) -> None:
    jumps = iter([1.5e9, 1.5e9 + 86400, 1.0e9, 1.6e9] * 100)
    bench = Bench(tmp_path / "alice", patience=60.0, wall=lambda: next(jumps))
    began = bench.net.now
    with bench.folder, pytest.raises(PeerUnreachable):
        bench.wait()
    assert 60 < bench.net.now - began < 75
    (warned,) = bench.log("patience")
    assert 30 < warned["silent_s"] < 45
    assert len({event["time"][:10] for event in bench.log()}) > 1


def test_a_run_that_lost_patience_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    town = Town(tmp_path, ["a", "b"])
    town.start("a", patience=0.2)
    town.wait("a")
    assert isinstance(town.endings["a"], PeerUnreachable)
    town.learners["a"] = AddingLearner(1.0)
    town.start("a")
    town.start("b")
    town.wait()
    assert [town.endings[name].outcome for name in "ab"] == ["done", "done"]
    assert [event["boot"] for event in logged(tmp_path / "a", "started")] == [1, 2]
    assert [e["round"] for e in logged(tmp_path / "a", "confirmed")] == [4]


# --- what is told meanwhile --------------------------------------------------------------


def test_plain_lines_tell_a_long_wait_at_once_then_ever_more_rarely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "alice", progress=PlainLines())
    bench.telling.phase("exchanging", 3)
    began = bench.net.now
    cut = []

    def lose_the_link() -> None:
        passed = bench.net.now - began
        if passed >= 200 and not cut:
            cut.append(bench.net.cut(bench.line))
        bench.here = passed >= 2.5 * HOUR

    bench.meanwhile = lose_the_link
    with bench.folder:
        bench.wait()
    assert capsys.readouterr().out.splitlines() == [
        "round 3: exchanging",
        "bob: connected",
        "waiting for the update of bob (bob: connected)",
        "still waiting, 1 min now, for the update of bob (bob: connected)",
        "bob: link broken (cut), reconnecting",
        "still waiting, 5 min now, for the update of bob (bob: reconnecting since 1 min)",
        "still waiting, 30 min now, for the update of bob (bob: reconnecting since 26 min)",
        "still waiting, 1 h now, for the update of bob (bob: reconnecting since 56 min)",
        "still waiting, 2 h now, for the update of bob (bob: reconnecting since 1 h 56 min)",
    ]


def test_waits_too_short_to_be_news_are_not_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = Bench(tmp_path / "alice", progress=PlainLines())
    bench.meanwhile = lambda: setattr(bench, "here", True)
    with bench.folder:
        bench.wait()
    assert "waiting" not in capsys.readouterr().out
    assert bench.log("waiting-begins", "waiting-ends") == []


def test_a_long_wait_is_logged_when_it_begins_and_when_it_ends(bench: Bench) -> None:
    began = bench.net.now
    bench.meanwhile = lambda: setattr(bench, "here", bench.net.now - began >= 20)
    bench.wait()
    begins, ends = bench.log("waiting-begins", "waiting-ends")
    assert (begins["for"], begins["of"], ends["of"]) == ("update", ["bob"], ["bob"])
    assert ends["seconds"] >= 20


def test_status_json_says_what_is_awaited_of_whom_and_how_the_link_stands(bench: Bench) -> None:
    began = bench.net.now
    bench.says("training", 7, 63)
    seen = []

    def look() -> None:
        seen.append(bench.status_file())
        bench.here = bench.net.now - began >= 30

    bench.meanwhile = look
    bench.telling.phase("exchanging", 3)
    bench.wait()
    said = seen[-1]
    assert (said["phase"], said["round"], said["rounds"]) == ("waiting", 3, 4)
    wait = said["waiting"]
    assert (wait["for"], wait["of"]) == ("update", ["bob"])
    assert wait["seconds"] >= 26
    assert 20 < wait["patience_left_s"] <= 45
    bob = said["peers"]["bob"]
    assert (bob["state"], bob["phase"], bob["step"], bob["steps"]) == (
        "connected", "training", 7, 63,
    )  # fmt: skip
    assert bob["since_state_s"] >= 26
    assert bob["route"] == "it dials us at tcp://127.0.0.1:7001"
    assert bench.status_file()["waiting"] is not None  # until the engine says what comes next
    bench.telling.phase("exchanging", 3)
    assert bench.status_file()["waiting"] is None


def test_status_json_stays_fresh_while_the_trainer_is_busy(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telling_module, "REFRESH", 0.01)
    with bench.telling:
        first = bench.status_file()["monotonic_s"]
        until(lambda: bench.status_file()["monotonic_s"] > first, "a fresh status")
        again = bench.status_file()
    assert (again["boot"], again["monotonic_s"] > first) == (bench.folder.boot, True)


def test_steps_that_would_give_away_how_many_images_there_are_stay_at_home(
    tmp_path: Path,
) -> None:
    class Whole(Unaccounted):
        public_steps = False

    bench = Bench(tmp_path / "alice", spending=Whole())
    with bench.folder:
        bench.telling.phase("training", 1)
        bench.telling.step(1, 5, 63, 0.5)
        told = bench.alice.talk.status
        assert (told.step, told.steps) == (int(bench.net.now) // 10, 0)
        bench.telling.refresh()
        assert (bench.status_file()["step"], bench.status_file()["steps"]) == (5, 63)


def test_work_whose_steps_nobody_counts_is_a_sign_of_life_all_the_same(bench: Bench) -> None:
    bench.telling.phase("training", 1)
    before = bench.alice.talk.status
    bench.net.now += 10
    bench.telling.step(1, 0, 0, 0.5)
    assert bench.alice.talk.status != before
    assert bench.alice.talk.status.steps == 0
    bench.telling.refresh()
    assert bench.status_file()["steps"] is None


def test_a_link_that_breaks_while_we_train_is_logged_when_it_happens(tmp_path: Path) -> None:
    """The engine takes the event only after its training, perhaps hours later."""
    town = Town(tmp_path, ["a", "b"])
    seen = []

    def cut(round: int) -> None:
        if round == 2 and not seen:
            town.hub.cut("a", "b", lose=True)
            until(lambda: len(logged(tmp_path / "a", "connected")) >= 2, "a new session")
            seen.extend(logged(tmp_path / "a", "link-broken", "connected", "closed"))

    town.learners["a"].crash = cut
    town.start("a")
    town.start("b")
    town.wait()
    assert [town.endings[name].outcome for name in "ab"] == ["done", "done"]
    assert [e["event"] for e in seen] == ["connected", "closed", "link-broken", "connected"]
    assert seen[-1]["after_s"] >= 0


def test_every_round_leaves_its_steps_in_the_log(tmp_path: Path) -> None:
    town = Town(tmp_path, ["a", "b"])
    town.start("a")
    town.start("b")
    town.wait()
    names = [event["event"] for event in logged(tmp_path / "a")]
    one = ["released", "admitted", "admitted", "voted", "closed"]
    assert [name for name in names if name in set(one)] == one * 4
    assert names[0] == "started"
    released = logged(tmp_path / "a", "released")
    assert [(e["round"], e["kind"], e["again"]) for e in released] == [
        (round, "update", False) for round in (1, 2, 3, 4)
    ]
