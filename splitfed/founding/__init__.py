"""A party's folder from nothing: what `splitfed init` and the demo both do."""

from __future__ import annotations

from splitfed.founding.making import FEDERATION, Founded, Newcomer, Proposal, found, join
from splitfed.founding.sources import DIGITS, Sources, classes_of, sources_of

__all__ = [
    "DIGITS",
    "FEDERATION",
    "Founded",
    "Newcomer",
    "Proposal",
    "Sources",
    "classes_of",
    "found",
    "join",
    "sources_of",
]
