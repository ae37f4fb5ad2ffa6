"""The whole story on one machine, with real processes, keys and digits."""

from __future__ import annotations

from splitfed.demo.processes import run_together
from splitfed.demo.story import (
    check_choices,
    combine,
    make_parties,
    reference,
    references,
)

__all__ = [
    "check_choices",
    "combine",
    "make_parties",
    "reference",
    "references",
    "run_together",
]
