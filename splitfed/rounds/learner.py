"""What the round engine asks of local learning, and nothing more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from splitfed.tensors import Tensors


@dataclass(frozen=True, kw_only=True)
class Trained:
    """One round of local training.

    Attributes:
        loss: mean training loss per image; None when no step was taken.
        seconds: time spent on the party's own model.
        baseline_seconds: time spent on the local_only branch; 0 when there is none.
        judgement: what the acceptance test found of the merge before, in plain values; None
            where it was not asked.
        leave: why this party must leave the federation now; empty: it need not.
    """

    loss: float | None
    seconds: float
    baseline_seconds: float = 0.0
    judgement: dict[str, Any] | None = None
    leave: str = ""

    def row(self) -> dict[str, Any]:
        """Its part of the history row; the seconds of training stand there with the times."""
        return {
            "train_loss": self.loss,
            "baseline_s": self.baseline_seconds,
            "judgement": self.judgement,
        }


class Learner(Protocol):
    """A party's models and data. Only :meth:`shared` and :meth:`merge` touch the federation."""

    def train(self, round: int, step: Callable[[int, int, float], None]) -> Trained:
        """Train one round from the present state, telling ``step(done, of, loss)`` at times;
        with ``of`` = 0 as a mere sign of life from work whose steps are nobody's business."""
        ...

    def shared(self) -> Tensors:
        """Copies of the shared tensors as they are now."""
        ...

    def merge(self, shared: Tensors) -> None:
        """Take over the agreed shared tensors."""
        ...

    def prepare(self, kind: str, final: bool, step: Callable[[int, int, float], None]) -> Trained:
        """Make ready what fusion releases: "outputs" or "private"; ``final``: after the last
        round, when the model is fitted first."""
        ...

    def outgoing(self) -> Tensors:
        """Copies of what :meth:`prepare` made ready."""
        ...

    def absorb(self, received: Mapping[str, Tensors]) -> None:
        """Between two rounds: learn from what the parties sent for fusion, the own included."""
        ...

    def validate(self) -> float | None:
        """Accuracy on the party's own validation images; None without any."""
        ...

    def state(self) -> tuple[Tensors, dict[str, object]]:
        """Everything needed to go on bit for bit: tensors by name, and plain values."""
        ...

    def restore(self, tensors: Tensors, meta: dict[str, object]) -> None:
        """The inverse of :meth:`state`."""
        ...
