"""Silence in tests with several engines."""

from __future__ import annotations

import pytest

from tests.support.quick import unhurried


@pytest.fixture
def silence(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test but those of patience itself waits on a clock, and none depends on how fast it is."""
    if "waited_out" not in request.fixturenames:
        unhurried(monkeypatch)


@pytest.fixture
def waited_out() -> None:
    """The silence of peers is measured."""
