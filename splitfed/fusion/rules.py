"""The ways of joining the local models that an agreement may name in ``[fusion] method``.

============  ==============================================================================
method        what becomes of what all parties released
============  ==============================================================================
``distill``   the mean of all outputs on common images: everybody trains to imitate it
              (Hinton et al. 2015, *Distilling the knowledge in a neural network*)
``average``   the mean of the private tensors after matching: one model for all
              (see :mod:`splitfed.fusion.matching`)
``ensemble``  the private tensors stay apart, one model for each party; the mean of their
              outputs is the prediction
============  ==============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from splitfed.errors import Defect, UserError
from splitfed.fusion.groups import Group
from splitfed.fusion.matching import matched_average
from splitfed.tensors import Tensors

OUTPUTS = "outputs"
"""The name under which a party's probabilities [N, K] stand among tensors."""
SMALLEST = 1e-12
"""Probabilities below count as this much: the logarithm of zero is no number."""

Kind = Literal["outputs", "private"]
Combine = Callable[[Mapping[str, Tensors], Mapping[str, float], Sequence[Group]], Tensors]
"""(party -> tensors, party -> weight, groups) -> joint tensors; pure and deterministic."""


@dataclass(frozen=True, kw_only=True)
class FusionRule:
    """How what all parties released becomes one.

    Attributes:
        name: as written in the agreement.
        releases: what leaves a party: ``{"outputs": [N, K]}`` on common images, or its
            private tensors.
        combines: what ``combine`` takes and gives. Differs from ``releases`` for an ensemble
            only, whose members' outputs are computed wherever a prediction is needed.
        combine: the pure function itself; outputs are averaged without weights.
    """

    name: str
    releases: Kind
    combines: Kind
    combine: Combine


def soften(probabilities: Tensor, temperature: float) -> Tensor:
    """softmax(log p / T): the softmax at temperature T of any logits that gave p at T = 1
    (Hinton et al. 2015, equation 1). Zeros count as 1e-12.

    Args:
        probabilities: [N, K], rows that sum to one.
        temperature: above zero, finite; 1 changes nothing, more evens out.

    Returns:
        [N, K] float64.

    Raises:
        Defect: a temperature that is none (the configuration has refused it before).
    """
    if not 0.0 < temperature < float("inf"):
        raise Defect(f"temperature {temperature}; softening needs a positive number")
    logs = probabilities.detach().to("cpu", torch.float64).clamp(min=SMALLEST).log()
    return torch.softmax(logs / temperature, dim=1)


def mean_probabilities(members: Sequence[Tensor]) -> Tensor:
    """The unweighted mean of several models' probabilities for the same images.

    Every sum and division is a separate float64 operation in the order of ``members``, and
    classes are added one after the other: no thread or processor changes a bit.

    Args:
        members: [N, K] each; rows that sum to one, or nearly, as float32 leaves them.

    Returns:
        [N, K] float64; rows sum to one.

    Raises:
        Defect: no member, or members of different shapes or not [N, K].
    """
    if not members:
        raise Defect("the mean of no probabilities was asked for")
    shape = members[0].shape
    total = torch.zeros(shape, dtype=torch.float64)
    for member in members:
        if member.shape != shape or len(shape) != 2:
            raise Defect(
                f"probabilities [N, K] were expected; there are {list(shape)} "
                f"and {list(member.shape)}"
            )
        total = total + member.detach().to("cpu", torch.float64)
    mean = total / len(members)
    sums = torch.zeros(shape[0], dtype=torch.float64)
    for column in mean.unbind(dim=1):
        sums = sums + column
    return mean / sums[:, None]


def _mean_outputs(
    parties: Mapping[str, Tensors], weights: Mapping[str, float], groups: Sequence[Group]
) -> Tensors:
    """``{"outputs": [N, K] float64}``, the mean in the order of the parties' names."""
    return {OUTPUTS: mean_probabilities([parties[party][OUTPUTS] for party in sorted(parties)])}


RULES: Mapping[str, FusionRule] = MappingProxyType(
    {
        "distill": FusionRule(
            name="distill", releases="outputs", combines="outputs", combine=_mean_outputs
        ),
        "average": FusionRule(
            name="average", releases="private", combines="private", combine=matched_average
        ),
        "ensemble": FusionRule(
            name="ensemble", releases="private", combines="outputs", combine=_mean_outputs
        ),
    }
)


def find_rule(name: str) -> FusionRule:
    """The fusion rule called ``name``.

    Raises:
        UserError: no such rule.
    """
    rule = RULES.get(name)
    if rule is None:
        raise UserError(
            f"[fusion] method = {name!r} is not built",
            f"choose one of: {', '.join(sorted(RULES))}",
        )
    return rule
