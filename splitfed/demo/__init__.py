"""The whole story on one machine, with real processes, keys and digits."""

from __future__ import annotations

from splitfed.demo.processes import run_together
from splitfed.demo.story import check_choices, combine, full_reference, make_parties

__all__ = ["check_choices", "combine", "full_reference", "make_parties", "run_together"]
