"""Silence in tests with several engines."""

from __future__ import annotations

import pytest

from splitfed.rounds.quiet import Quiet
from tests.support.quick import DEAD


@pytest.fixture
def silence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test but those of patience itself waits on a clock, and none depends on how fast it is."""
    DEAD.clear()
    if "waited_out" not in request.fixturenames:
        long = 1000.0
        monkeypatch.setattr(Quiet, "of", lambda quiet, peer, news: long if peer in DEAD else 0.0)


@pytest.fixture
def waited_out() -> None:
    """The silence of peers is measured."""
