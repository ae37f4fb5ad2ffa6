"""Judgement: does what the others send harm me? Asked of my own images, and nobody is told.

The acceptance test compares two branches: the model that took over the merge and trained on it,
and the local_only one that never meets a merge. It is asked at the end of a round's training, about
the merge before. One bad answer proves nothing: an honest merge may cost several points before the
private layers have followed. And while both still learn fast, an honest partner may keep the merged
model a round or two behind for some rounds running; so it has to stand against the local_only model
of ``LAG`` rounds before. What has settled does not move in that time, and nothing is forgiven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from splitfed.evaluation import Loss, Predictions, loss_of
from splitfed.evaluation.acceptance import CONFIDENCE
from splitfed.tensors import Tensors

RUNNING = 2
"""Bad answers running that make distrust."""
LAG = 2
"""Rounds that the merged model may be behind."""


@dataclass(kw_only=True)
class Judge:
    """Counts bad answers. Plain state, saved with the learner's.

    Attributes:
        classes: the agreement's class names, for the evidence.
        running: bad answers running that make distrust.
        lag: rounds that the merged model may be behind.
        bad: bad answers running so far.
        merged: a merge was taken over since the last answer.
        past: [N] bool, which images the local_only model had right after each of the last ``lag``
            rounds, oldest first.
        loss: what the last answer rests on; not part of the state.
    """

    classes: Sequence[str]
    running: int = RUNNING
    lag: int = LAG
    bad: int = 0
    merged: bool = False
    past: tuple[Tensor, ...] = ()
    loss: Loss | None = None

    def hear(
        self, without: Predictions | None, merged: Predictions | None
    ) -> dict[str, Any] | None:
        """Judge the merge since the last answer by both branches' predictions.

        Args:
            without: of the local_only model as it is now.
            merged: of the other; may be None where no merge was taken over.

        Returns:
            None where there is nothing to judge: no merge since, fewer than ``lag`` rounds before,
            no branch without a merge, no validation images, a regression. Else the figures of
            :class:`~splitfed.evaluation.acceptance.Loss`, ``bad`` answers running, the ``shift``
            of classes, and ``alarm``: why distrust begins with this answer, or None.
        """
        asked, self.merged = self.merged, False
        if without is None or without.correct is None:
            return None
        known = (*self.past, without.correct)
        self.past = known[1:] if len(known) > self.lag else known
        if not asked or merged is None or merged.correct is None or len(known) <= self.lag:
            return None
        self.loss = loss = loss_of(known[-1 - self.lag], merged.correct)
        self.bad = self.bad + 1 if loss.bad else 0
        return {
            "images": loss.images,
            "lost": loss.lost,
            "gained": loss.gained,
            "difference": loss.difference,
            "bound": loss.bound,
            "bad": self.bad,
            "shift": shift_of(without, merged, self.classes),
            "alarm": self.distrust if self.bad == self.running else None,
        }

    @property
    def distrust(self) -> str:
        """Why the merges are distrusted; empty where they are not."""
        if self.bad < self.running or self.loss is None:
            return ""
        loss, running = self.loss, f", {self.bad} rounds running" if self.running > 1 else ""
        before = f" {self.lag} rounds before" if self.lag else ""
        return (
            f"taking part costs accuracy: on {loss.images} own validation images "
            f"{100 * loss.difference:.1f} points against training alone{before}, at least "
            f"{100 * loss.bound:.1f} with {100 * CONFIDENCE:g} % confidence{running}"
        )

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """What the next answer depends on."""
        past = {f"judge/{i}": right.to(torch.uint8) for i, right in enumerate(self.past)}
        return past, {"judge": {"bad": self.bad, "merged": self.merged}}

    def restore(self, tensors: Tensors, meta: dict[str, Any]) -> None:
        """The inverse of :meth:`state`; a folder from before there was a judge has none."""
        found = meta.get("judge", {})
        self.bad, self.merged = found.get("bad", 0), found.get("merged", False)
        self.past = tuple(
            tensors[name].bool() for name in sorted(tensors) if name.startswith("judge/")
        )


def shift_of(
    without: Predictions, merged: Predictions, classes: Sequence[str]
) -> dict[str, Any] | None:
    """The class that the merge makes the model say more often than any other, with its share of
    all answers without and with the merge: a hint at swapped labels."""
    if without.probabilities is None or merged.probabilities is None:
        return None
    count = merged.probabilities.shape[1]
    before, after = (
        torch.bincount(p.argmax(dim=1), minlength=count).to(torch.float64) / len(p)
        for p in (without.probabilities, merged.probabilities)
    )
    most = int((after - before).argmax())
    return {
        "class": classes[most] if most < len(classes) else f"class {most}",
        "without": float(before[most]),
        "merged": float(after[most]),
    }
