"""Evaluation: what a model predicts, how well, and whether federating it helped.

Everything here reads a model and a party's own images; nothing of it leaves the machine.
"""

from __future__ import annotations

from splitfed.evaluation.acceptance import Loss, loss_of
from splitfed.evaluation.metrics import ClassRow, Metrics, measure
from splitfed.evaluation.predictions import Predictions, predict
from splitfed.evaluation.scores import Score, score, wilson_interval
from splitfed.evaluation.verdict import Verdict, paired_bootstrap

__all__ = [
    "ClassRow",
    "Loss",
    "Metrics",
    "Predictions",
    "Score",
    "Verdict",
    "loss_of",
    "measure",
    "paired_bootstrap",
    "predict",
    "score",
    "wilson_interval",
]
