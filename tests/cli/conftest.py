"""What every test of the command line needs."""

from __future__ import annotations

import pytest

from tests.support.commands import Shell


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    """Runs commands in this process."""
    return Shell(capsys)
