"""Many parties in one process, for notebooks and tests."""

from __future__ import annotations

from splitfed.simulation.alone import outputs_only
from splitfed.simulation.attacks import ATTACKS, Attack, find_attack
from splitfed.simulation.federation import Federation
from splitfed.simulation.party import Party
from splitfed.simulation.stage import Stage

__all__ = [
    "ATTACKS",
    "Attack",
    "Federation",
    "Party",
    "Stage",
    "find_attack",
    "outputs_only",
]
