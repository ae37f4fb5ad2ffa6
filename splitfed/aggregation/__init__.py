"""Aggregation: from the admitted updates of one round to the tensors all parties agree on.

A rule is a pure, deterministic function: equal updates and parameters give equal bytes on every
machine, which is what lets each party compute the aggregate by itself and compare digests.
"""

from __future__ import annotations

from splitfed.aggregation.bound import norm_bound
from splitfed.aggregation.mean import weighted_mean
from splitfed.aggregation.rules import RULES, Parameters, Rule

__all__ = [
    "RULES",
    "Parameters",
    "Rule",
    "norm_bound",
    "weighted_mean",
]
