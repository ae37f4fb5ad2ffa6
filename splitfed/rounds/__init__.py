"""Rounds without a coordinator: train, release, exchange, admit, aggregate, vote, close."""

from __future__ import annotations

from splitfed.rounds.ending import Ending
from splitfed.rounds.engine import Engine
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import admit, release
from splitfed.rounds.learner import Learner, Trained
from splitfed.rounds.schedule import following, plan, trained
from splitfed.rounds.spending import Spending, Unaccounted
from splitfed.rounds.terms import UPDATE, FusionTerms, Terms, run_id

__all__ = [
    "UPDATE",
    "Ending",
    "Engine",
    "Entrance",
    "FusionTerms",
    "Learner",
    "Spending",
    "Terms",
    "Trained",
    "Unaccounted",
    "admit",
    "following",
    "plan",
    "release",
    "run_id",
    "trained",
]
