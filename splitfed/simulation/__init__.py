"""Many parties in one process, for notebooks and tests."""

from __future__ import annotations

from splitfed.simulation.alone import outputs_only
from splitfed.simulation.federation import Federation, Party

__all__ = ["Federation", "Party", "outputs_only"]
