"""One institution of a simulated federation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from splitfed.simulation.given import Images

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig
    from splitfed.simulation.attacks import Attack

Factory = Callable[[], nn.Module] | str


@dataclass(frozen=True)
class Party:
    """One institution of a simulated federation.

    Attributes:
        name: its name, unique in the federation.
        train: labelled images: an :class:`~splitfed.data.ImageSet`, or a pair of tensors
            (float32 [N, ...] ready for the model; int64 [N] classes or float32 [N] targets).
        validation: held out for progress and verdicts; may be None.
        test: evaluated once at the end; may be None.
        model: a different private part; its shared tensors must match the federation's.
        training: replaces the federation's training settings.
        attack: how it lies, see :mod:`splitfed.simulation.attacks`; None: it is honest.
    """

    name: str
    train: Images
    validation: Images | None = None
    test: Images | None = None
    model: Factory | None = None
    training: TrainingConfig | None = None
    attack: Attack | None = None
