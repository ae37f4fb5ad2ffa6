"""Rounds without a coordinator: train, release, exchange, admit, aggregate, vote, close."""

from __future__ import annotations

from splitfed.rounds.ending import Ending
from splitfed.rounds.engine import Engine
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import UPDATE, admit, release
from splitfed.rounds.learner import Learner, Trained
from splitfed.rounds.spending import Spending, Unaccounted
from splitfed.rounds.terms import Terms, run_id

__all__ = [
    "UPDATE",
    "Ending",
    "Engine",
    "Entrance",
    "Learner",
    "Spending",
    "Terms",
    "Trained",
    "Unaccounted",
    "admit",
    "release",
    "run_id",
]
