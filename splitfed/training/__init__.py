"""Local training: one party's model on its own images, resumable; deterministic without noise."""

from __future__ import annotations

from splitfed.training.loop import Progress, RoundResult
from splitfed.training.phases import as_alone
from splitfed.training.trainer import Trainer

__all__ = ["Progress", "RoundResult", "Trainer", "as_alone"]
