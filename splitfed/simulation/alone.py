"""What parties come to that share no layer at all, only outputs: a reference to compare with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from typing import Any

from torch import nn

from splitfed.config import OwnFusionConfig, TrainingConfig
from splitfed.data import ImageSet
from splitfed.evaluation import predict, score
from splitfed.fusion import OUTPUTS, mean_probabilities
from splitfed.run.fusing import outputs_of
from splitfed.run.learner import PartyData
from splitfed.sharing import split_model
from splitfed.training import Trainer


def outputs_only(
    parties: Mapping[str, PartyData],
    model: nn.Module,
    *,
    reference: ImageSet,
    settings: Mapping[str, TrainingConfig],
    fusing: OwnFusionConfig,
    temperature: float,
    rounds: int,
    classes: tuple[str, ...],
    seed: int,
) -> dict[str, dict[str, Any] | None]:
    """Every party trains ``model`` alone, byte for byte as the local_only branch of a run does
    (of all algorithms but "fedrep", whose rounds are longer), and then learns from the mean of
    all parties' outputs on ``reference``.

    What this gains is owed to the outputs; what a federation gains beyond it, to the layers.

    Args:
        parties: their images by name; those without a test set are not scored.
        model: with the initial values; left as it is.
        settings: each party's [training].

    Returns:
        Each party's score on its own test images, as a row of report.json.
    """
    split = split_model(model, "*")
    trained: dict[str, nn.Module] = {}
    trainer: dict[str, Callable[[nn.Module], Trainer]] = {}
    for name, data in parties.items():
        trainer[name] = partial(
            Trainer,
            data=data.train,
            settings=settings[name],
            split=split,
            classes=classes,
            seed=seed,
            party=name,
            total_rounds=rounds,
        )
        mine = trainer[name](deepcopy(model))
        for round in range(1, rounds + 1):
            mine.train_round(round)
        mine.fit_all()
        trained[name] = mine.model
    answers = [outputs_of(predict(trained[name], reference))[OUTPUTS] for name in sorted(trained)]
    found: dict[str, dict[str, Any] | None] = {}
    for name, data in parties.items():
        learner = trainer[name](deepcopy(trained[name]))
        learner.distill(
            reference,
            mean_probabilities(answers),
            temperature=temperature,
            weight=fusing.weight,
            epochs=fusing.epochs,
        )
        test = data.test
        found[name] = None if test is None else score(predict(learner.model, test)).row()
    return found
