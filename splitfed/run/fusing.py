"""Fusion as one party sees it: what it releases, and what it makes of what came in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from splitfed.errors import UserError
from splitfed.evaluation import Predictions
from splitfed.fusion import (
    OUTPUTS,
    channel_groups,
    matched_average,
    mean_probabilities,
    soften,
)
from splitfed.rounds import FusionTerms
from splitfed.sharing import Split, load_tensors, split_model
from splitfed.sharing.algorithms import Patterns
from splitfed.tensors import Tensors
from splitfed.types import TensorSpec

Method = Literal["distill", "average", "ensemble"]
OWN = "own"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is built: enough to build it again for a prediction.

    Attributes:
        factory: ``package.module:Class``.
        arguments: its keyword arguments.
    """

    factory: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class AgreedFusion:
    """What the parties agreed to do besides averaging shared layers.

    Attributes:
        method: "distill", "average" or "ensemble".
        every: rounds between two exchanges; None: once, after the last.
        temperature: softens the outputs that are learnt from.
        reference_size: unlabelled images that every party holds; None where none are needed.
        reference_digest: BLAKE3 of them, hex.
        models: each party's model with any values; the agreed one where it has no other.
        recipes: how those are built that are not the agreed model.
    """

    method: Method
    every: int | None = None
    temperature: float = 1.0
    reference_size: int | None = None
    reference_digest: str | None = None
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def terms(self, parties: tuple[str, ...], classes: int, patterns: Patterns) -> FusionTerms:
        """The same for the round engine: which tensors each party releases.

        Args:
            patterns: of the shared tensors, as agreed; the rest of a model is private.

        Raises:
            UserError: a model has no private tensor that could be released.
        """
        tensors: dict[str, tuple[TensorSpec, ...]] = {}
        if self.method == "distill":
            assert self.reference_size is not None  # the agreement names the images
            spec = TensorSpec(OUTPUTS, (self.reference_size, classes), "float32")
            return FusionTerms(
                method=self.method,
                kind="outputs",
                tensors=dict.fromkeys(parties, (spec,)),
                every=self.every,
            )
        for party in parties:
            split = split_model(self.models[party], patterns)
            if not split.private:
                raise UserError(
                    f'[fusion] method = "{self.method}": every layer of {party} is shared already',
                    'agree on method = "none", or share fewer layers',
                )
            tensors[party] = split.private
        return FusionTerms(method=self.method, kind="private", tensors=tensors)


class Ensemble(nn.Module):
    """The mean of several classifiers' probabilities, as a model of its own.

    Args:
        members: images [N, C, H, W] -> logits [N, K] each, or values [N, K] of a regression.
        classes: K; 0 for a regression, whose values are averaged as they are.

    Shapes: [N, C, H, W] -> [N, K]: logarithms of the mean probabilities, so that a softmax
    gives them back.
    """

    def __init__(self, members: Mapping[str, nn.Module], classes: int) -> None:
        super().__init__()
        self.members = nn.ModuleList(members.values())
        self.names = tuple(members)
        self._classes = classes

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities, or the mean value."""
        if not self._classes:
            return torch.stack([member(x) for member in self.members]).mean(0)
        logs = torch.stack([torch.log_softmax(member(x), dim=1) for member in self.members])
        return torch.logsumexp(logs, dim=0) - math.log(len(self.members))


def outputs_of(found: Predictions) -> Tensors:
    """Class probabilities as they are released: ``{"outputs": [N, K] float32}``.

    A row that is not finite, from a model that overflows, becomes uniform: it says nothing,
    and nothing about why.
    """
    assert found.probabilities is not None  # outputs are exchanged between classifiers alone
    values = found.probabilities.clone()
    broken = ~torch.isfinite(values).all(dim=1)
    values[broken] = 1.0 / values.shape[1]
    return {OUTPUTS: values.to(torch.float32).contiguous()}


def teacher(received: Mapping[str, Tensors], party: str, own: Tensor | None) -> Tensor:
    """What all parties' outputs say together, [N, K] float64.

    Without noise that is their mean. Under noise the own part is what the personal model
    says, since at home nothing needs noise, and the opinions are pooled by their geometric
    mean (the logarithmic opinion pool: Genest & Zidek 1986, *Combining probability
    distributions*, section 3; Hinton 2002, products of experts): the noised outputs of the
    others are unsure nearly everywhere, and an average would drag a sure and right personal
    model down with them, while here whoever is surer counts for more.

    Args:
        received: what was admitted, by party.
        party: own name.
        own: this party's outputs as its personal model gives them, in the place of those it
            released. None: as released, without noise.
    """
    if own is None:
        return mean_probabilities([received[name][OUTPUTS] for name in sorted(received)])
    members = [
        own if name == party else received[name][OUTPUTS] for name in sorted({*received, party})
    ]
    logs = torch.stack([soften(member, 1.0).log() for member in members])
    return torch.softmax(logs.mean(dim=0), dim=1)


def averaged(
    model: nn.Module,
    split: Split,
    received: Mapping[str, Tensors],
    *,
    shared: Tensors,
    example: Tensor,
) -> nn.Module:
    """A copy of ``model`` with the agreed shared layers, against which all private layers were
    trained, and the matched mean of those. Integers stay the own ones: they count or point, and
    a peer's could point anywhere.

    Args:
        shared: the agreed shared tensors.
        example: one image as the model sees it, [1, C, H, W].
    """
    fused = deepcopy(model)
    load_tensors(fused, shared)
    groups = channel_groups(fused, split, example)
    mean = matched_average(received, dict.fromkeys(received, 1.0), groups)
    load_tensors(fused, _floating(mean))
    return fused


def _floating(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


def joined(
    model: nn.Module,
    received: Mapping[str, Tensors],
    party: str,
    *,
    shared: Tensors,
    fusion: AgreedFusion,
    classes: int,
) -> Ensemble:
    """``model`` and every other party's, rebuilt from the agreed shared tensors and the private
    ones that it released; integers as the factory gives them, see :func:`averaged`."""
    members: dict[str, nn.Module] = {OWN: model}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for name in sorted(set(received) - {party}):
        other = deepcopy(fusion.models[name])
        load_tensors(other, shared)
        load_tensors(other, _floating(received[name]))
        members[name] = other.to(device)
    return Ensemble(members, classes)
