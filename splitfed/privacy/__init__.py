"""Differential privacy of what leaves: mechanisms, accounting, noise, refusals.

The only package that imports opacus. Importing it imports neither torch nor opacus, so that
a plan's sentence or a configuration's refusal costs no start-up time.
"""

from __future__ import annotations

from splitfed.privacy.accounting import Spend, epsilon, epsilon_rdp, noise_for
from splitfed.privacy.mechanism import Mechanism, mechanism_of, sentence_of

__all__ = [
    "Mechanism",
    "Spend",
    "epsilon",
    "epsilon_rdp",
    "mechanism_of",
    "noise_for",
    "sentence_of",
]
