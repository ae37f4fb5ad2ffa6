"""Local training: one party's model on its own images, resumable; deterministic without noise."""

from __future__ import annotations

from splitfed.training.trainer import Progress, RoundResult, Trainer

__all__ = ["Progress", "RoundResult", "Trainer"]
