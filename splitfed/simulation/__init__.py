"""A federation in one process: the same code as a real run, over an in-memory link."""

from __future__ import annotations

from splitfed.simulation.federation import Federation, Party

__all__ = ["Federation", "Party"]
