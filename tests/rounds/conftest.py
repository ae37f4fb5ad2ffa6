"""One member alone with its folder, and silence in tests with several engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from splitfed.progress import Silent
from splitfed.rounds.mail import Mail
from tests.support.members import INITIAL
from tests.support.one import SECRETS, TERMS, One
from tests.support.quick import unhurried


@pytest.fixture
def one(tmp_path: Path) -> Iterator[One]:
    made = One(tmp_path / "a")
    yield made
    made.folder.close()


@pytest.fixture
def mail(one: One) -> Mail:
    link: Any = one.link
    made = Mail(
        terms=TERMS,
        party="a",
        folder=one.folder,
        link=link,
        entrance=one.entrance,
        signer=SECRETS["a"],
        greet=lambda: None,
        progress=Silent(),
        clock=lambda: 0.0,
    )
    assert made.open(INITIAL, ()) == []
    return made


@pytest.fixture
def silence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test but those of patience itself waits on a clock, and none depends on how fast it is."""
    if "waited_out" not in request.fixturenames:
        unhurried(monkeypatch)


@pytest.fixture
def waited_out() -> None:
    """The silence of peers is measured."""
