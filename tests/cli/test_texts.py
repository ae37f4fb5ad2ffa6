"""Texts at the width of a terminal, and the words of `check` and `verify` that stand for many."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stdout
from itertools import pairwise

import pytest

from splitfed.cli.output import fitted, say, say_json
from splitfed.cli.verify import few
from splitfed.cli.words import prose
from splitfed.run.check import as_our_run_says
from tests.support.commands import Shell

LONG = "  error: /var/lib/splitfed/hospital-a/runs/hospital-a/outbox/992f4a63fb056c is gone now"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_line_is_broken_between_words_and_goes_on_under_its_own_column() -> None:
    row = "closed   round 2: agreed, loss 2.0495, validation accuracy 32.0%, sent 75.3 KiB"
    assert fitted(row, 50).splitlines() == [
        "closed   round 2: agreed, loss 2.0495, validation",
        "         accuracy 32.0%, sent 75.3 KiB",
    ]
    further = " " * 9 + "if nothing changes, in 7 min it ends with exit code 3"
    assert fitted(further, 40).splitlines()[1] == " " * 9 + "ends with exit code 3"
    assert fitted("  - images, labels and file names", 20).splitlines()[1] == "    and file names"


def test_no_word_is_broken_and_none_is_lost() -> None:
    for width in range(10, 100):
        assert fitted(LONG, width).split() == LONG.split()


def test_what_is_no_terminal_gets_each_line_whole(capsys: pytest.CaptureFixture[str]) -> None:
    say(LONG)
    assert capsys.readouterr().out == f"{LONG}\n"


def test_a_terminal_gets_lines_that_fit_and_json_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    value = {"text": "two words " * 20}
    with redirect_stdout(Terminal()) as lines:
        say("one two three four five six seven eight nine ten eleven")
    assert max(map(len, lines.getvalue().splitlines())) <= 40
    with redirect_stdout(Terminal()) as document:
        say_json(value)
    assert json.loads(document.getvalue()) == value


@pytest.mark.parametrize("command", ["init", "run", "check", "verify", "keys rotate"])
def test_a_help_text_is_not_broken_in_the_middle_of_a_line(
    shell: Shell, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = shell(*command.split(), "--help").out.partition("╭")[0]
    lines = [line.strip() for line in text.splitlines()]
    for this, following in pairwise(lines):
        if this and following:
            first = following.split()[0]
            assert len(this) + 1 + len(first) > 78, f"{first!r} had room behind {this!r}"


def test_the_paragraphs_of_a_docstring_stay_apart() -> None:
    assert prose("Do it.\n\n    At once,\n    and well.\n    ") == "Do it.\n\nAt once, and well."


def test_notes_that_say_the_same_are_told_twice_and_counted() -> None:
    notes = [f"row {n}: signed with a key that was revoked" for n in range(1, 6)]
    assert list(few([*notes, "outbox: 1 file"])) == [
        *notes[:2],
        "3 more like these (signed with a key that was revoked); --json tells all",
        "outbox: 1 file",
    ]
    assert list(few(notes[:2])) == notes[:2]


@pytest.mark.parametrize("state", ["absent", "greeting", "left", "failed", None])
def test_check_beside_an_own_run_says_what_to_do_about_a_peer_that_is_not_connected(
    state: str | None,
) -> None:
    found = as_our_run_says("hospital-b", state)
    assert (found.ok, found.exit_code) == (False, 3)
    assert "`splitfed status`" in found.cure
    assert as_our_run_says("hospital-b", "connected").exit_code == 0
