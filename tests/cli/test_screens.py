"""What is seen of a run: plain lines, JSON lines, a live row; never a peer's control codes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress as Bars

from splitfed.cli.output import columns, printable
from splitfed.cli.screens import JsonLines, LiveRow, PlainLines, screen
from splitfed.cli.words import whole_round
from splitfed.progress import Silent

ROW: dict[str, Any] = {
    "round": 2, "outcome": "agreed", "train_loss": 0.25, "validation_accuracy": 0.9,
    "train_s": 1.0, "exchange_s": 0.02, "wait_s": 0.5, "bytes_sent": 75264,
    "bytes_received": 75264, "epsilon": None,
}  # fmt: skip


def test_a_round_is_one_line_with_everything_worth_knowing() -> None:
    assert whole_round(ROW) == (
        "round 2: agreed, loss 0.2500, validation accuracy 90.0%, sent 73.5 KiB, "
        "received 73.5 KiB, no privacy, train 1.0 s, exchange 0.02 s, wait 0.5 s"
    )
    bare = whole_round({**ROW, "train_loss": None, "validation_accuracy": None, "epsilon": 1.5})
    assert "loss" not in bare
    assert "accuracy" not in bare
    assert "epsilon 1.50" in bare


def test_a_missed_round_says_so_and_nothing_that_was_not_done() -> None:
    away = {**ROW, "outcome": "missed", "train_loss": None, "bytes_sent": 0, "bytes_received": 0}
    said = whole_round(away)
    assert said == "round 2: missed, the others went on without this party; taken over"


def test_plain_lines_say_each_fact_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines("hospital-a")
    lines.on_phase("training")
    lines.on_phase("training")
    lines.on_step(1, 1, 2, 0.5)
    lines.on_peer("hospital-b", "connected")
    lines.on_peer("hospital-c", "connected")
    lines.on_peer("hospital-b", "connected")
    lines.on_round(ROW)
    assert capsys.readouterr().out.splitlines() == [
        "hospital-a: training",
        "hospital-a: hospital-b: connected",
        "hospital-a: hospital-c: connected",
        f"hospital-a: {whole_round(ROW)}",
    ]


def test_a_peers_text_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    PlainLines().on_peer("b", "left (\x1b[2J\r\x9b31m)")
    printed = capsys.readouterr().out
    assert printed == "b: left (?[2J??31m)\n"
    assert printable("a\u202eb\tc", keep="\t") == "a?b\tc"


def test_json_lines_are_one_object_each(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonLines(clock=lambda: 0.0)
    lines.on_phase("training")
    lines.on_peer("b", "two\nlines")
    lines.on_round(ROW)
    lines.say("x")
    lines.tell("end", exit_code=0)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert found == [
        {"event": "phase", "text": "training"},
        {"event": "peer", "peer": "b", "text": "two\nlines"},
        {"event": "round", "row": ROW},
        {"event": "say", "text": "x"},
        {"event": "end", "exit_code": 0},
    ]


def test_steps_are_told_ten_times_a_second_and_the_last_always(
    capsys: pytest.CaptureFixture[str],
) -> None:
    times = iter([0.0, 0.05, 0.09, 0.11, 0.12])
    lines = JsonLines(clock=lambda: next(times))
    for step in range(1, 6):
        lines.on_step(1, step, 5, 0.5)
    told = [json.loads(line)["step"] for line in capsys.readouterr().out.splitlines()]
    assert told == [1, 4, 5]


def test_a_live_row_shows_phase_step_and_peers() -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    bars = Bars(console=console)
    row = LiveRow(bars, "hospital-a", rounds=4)
    row.on_phase("round 1: training")
    row.on_peer("hospital-b", "round 1 training")
    row.on_step(1, 3, 7, 0.5)
    task = bars.tasks[0]
    assert task.description == "round 1: training"
    assert task.fields["detail"] == "step 3/7, loss 0.500  hospital-b: round 1 training"
    assert 0 < task.completed < 1
    row.on_round({**ROW, "round": 1})
    assert task.completed == 1
    assert "step" not in task.fields["detail"]


def test_a_live_row_shows_a_wait_as_it_grows_and_what_comes_after_it() -> None:
    bars = Bars(console=Console(file=io.StringIO(), width=200, force_terminal=False))
    row = LiveRow(bars, "", rounds=4)
    row.on_step(1, 7, 7, 0.5)
    for seconds in (2.0, 3.0, 3725.0):
        row.on_waiting("the update of b", seconds, "b: reconnecting since 9 min")
    task = bars.tasks[0]
    assert task.description == "waiting 1 h 2 min for the update of b"
    assert task.fields["detail"] == "b: reconnecting since 9 min"
    row.on_phase("round 1: exchanging")
    assert task.description == "round 1: exchanging"
    assert task.fields["detail"] == "step 7/7, loss 0.500"


def test_waits_are_told_as_json_every_five_seconds_and_each_from_its_start(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = JsonLines()
    for seconds in (2.0, 3.0, 6.9, 7.0, 11.0, 12.0, 2.0):
        lines.on_waiting("the vote of b", seconds, "b: connected")
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["seconds"] for event in told] == [2.0, 7.0, 12.0, 2.0]
    assert told[0]["event"] == "waiting"


def test_a_second_wait_is_told_anew_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = PlainLines()
    for seconds in (2.0, 30.0, 61.0, 62.0, 2.0, 3.0):
        lines.on_waiting("the vote of b", seconds, "b: connected")
    assert capsys.readouterr().out.splitlines() == [
        "waiting for the vote of b (b: connected)",
        "still waiting, 1 min now, for the vote of b (b: connected)",
        "waiting for the vote of b (b: connected)",
    ]


def test_a_live_row_says_a_diagnosis_in_full_and_once() -> None:
    screen_text = io.StringIO()
    bars = Bars(console=Console(file=screen_text, width=200, force_terminal=False))
    row = LiveRow(bars, "", rounds=4)
    for _ in range(2):
        row.on_peer("b", "nobody listens there\n  cure: [bold]start it[/bold]\x1b[2J")
    assert screen_text.getvalue().count("cure: [bold]start it[/bold]?[2J") == 1
    assert bars.tasks[0].fields["detail"] == "b: nobody listens there"


def test_no_terminal_gets_plain_lines_and_json_its_own() -> None:
    with screen(3) as progress:
        assert isinstance(progress("a"), PlainLines)
    with screen(3, how="json") as progress:
        assert isinstance(progress(""), JsonLines)
    with screen(3, how="silent") as progress:
        assert isinstance(progress(""), Silent)


def test_columns_stand_under_each_other() -> None:
    rows = [("a", "1"), ("bbb", "100")]
    assert columns(rows, right=[1]) == "  a      1\n  bbb  100"
    assert columns([]) == ""
