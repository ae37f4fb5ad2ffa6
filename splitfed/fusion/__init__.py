"""Joining the local models at the end, without harm to anybody."""

from __future__ import annotations

from splitfed.fusion.groups import Group, channel_groups, permuted
from splitfed.fusion.matching import match, matched_average
from splitfed.fusion.rules import (
    OUTPUTS,
    RULES,
    FusionRule,
    find_rule,
    mean_probabilities,
    soften,
)

__all__ = [
    "OUTPUTS",
    "RULES",
    "FusionRule",
    "Group",
    "channel_groups",
    "find_rule",
    "match",
    "matched_average",
    "mean_probabilities",
    "permuted",
    "soften",
]
