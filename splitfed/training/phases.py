"""Which layers a round trains, in which order, under each algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from splitfed.training.freezing import Side

if TYPE_CHECKING:
    from splitfed.config import TrainingConfig


class Phase(NamedTuple):
    """Some steps in a row, while one side of the model is held still; None holds nothing."""

    held: Side | None
    steps: int


def round_phases(algorithm: str, settings: TrainingConfig, *, per_epoch: int) -> tuple[Phase, ...]:
    """What one round is made of.

    * "fedrep" (Collins et al. 2021, algorithm 1): ``head_epochs`` of the private layers, then
      the round's epochs or steps of the shared ones.
    * "fedbabu" (Oh et al. 2022, section 4): the shared layers alone; the private ones keep
      their initial values until they are fitted at the end.
    * all others: all layers together.

    Args:
        settings: with ``epochs`` or ``steps``, and ``head_epochs``.
        per_epoch: steps of one epoch.
    """
    steps = settings.steps
    if steps is None:
        steps = per_epoch * (settings.epochs or 0)
    if algorithm == "fedrep":
        return Phase("shared", per_epoch * settings.head_epochs), Phase("private", steps)
    return (Phase("private" if algorithm == "fedbabu" else None, steps),)


def as_alone(settings: TrainingConfig, algorithm: str, *, steps: int) -> TrainingConfig:
    """``settings`` for a model that never meets the others and is compared with one that does.

    Under "fedrep" a federated round has a phase more; the other model then takes as many steps
    of all its layers, on the same batches in the same order, so that neither saw more images.

    Args:
        steps: ``steps_per_round`` of the federated trainer.
    """
    if algorithm != "fedrep":
        return settings
    return settings.model_copy(update={"epochs": None, "steps": steps})
