"""Runs the command line in this process, as a shell would see it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

import pytest

from splitfed.cli import main


@dataclass(frozen=True)
class Answer:
    """What a command answered: its exit code and all it printed."""

    code: int
    out: str
    error: str

    @property
    def told(self) -> str:
        """All of it, for a message of an assertion that failed."""
        return self.out + self.error


def answer_to(*words: str | Path) -> Answer:
    """One command to its end, for whoever cannot have pytest's capture: a wider fixture."""
    out, error = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        pytest.raises(SystemExit) as ended,
    ):
        main([str(word) for word in words])
    code = ended.value.code
    assert isinstance(code, int), code
    return Answer(code, out.getvalue(), error.getvalue())


class Shell:
    """Calls commands and collects their answers."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *words: str | Path) -> Answer:
        self._capture.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(word) for word in words])
        printed = self._capture.readouterr()
        code = ended.value.code
        assert isinstance(code, int), code
        return Answer(code, printed.out, printed.err)
