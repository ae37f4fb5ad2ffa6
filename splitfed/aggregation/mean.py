"""The weighted mean of FedAvg (McMahan et al. 2017, algorithm 1, last line)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch

from splitfed.aggregation import arithmetic
from splitfed.aggregation.arithmetic import Float64, as_float64, check_alike, rounded
from splitfed.errors import Defect
from splitfed.tensors import Tensors


def weighted_mean(updates: Mapping[str, Tensors], weights: Mapping[str, float]) -> Tensors:
    """``Σ w_p x_p / Σ w_p`` over the parties p, element by element.

    Every product, sum and the one division is a separate float64 operation, parties in the
    order of their names, tensors in the order of theirs; the result is rounded once to the
    tensor's own dtype (floats to nearest, ties to even; integers and booleans to the nearest
    integer, halves to even, so a mean of 2 and 3 is 2). The result therefore does not depend
    on the order of any mapping, on threads or on the processor.

    The parties are asked for one after the other, and each once: a mapping that reads an update
    when it is asked for one lets memory stay at two sums' size, however many parties there are.

    Integers beyond 2**53 lose their last digits as float64 does.

    Args:
        updates: party -> tensors; the same names, shapes and dtypes for every party.
        weights: party -> weight, finite and positive; need not sum to one. Weights of
            parties that are not in ``updates`` are not looked at.

    Returns:
        New tensors on the CPU, names in order; none shares memory with an update.

    Raises:
        Defect: no update, unequal tensors, or a weight that is missing, not positive or
            not finite (configuration and admission have refused all of these before).
    """
    sums, shapes = weighted_sums(updates, weights)
    total = total_weight(updates, weights)
    result: Tensors = {}
    for name in sorted(shapes):
        mean = sums.pop(name)
        np.divide(mean, total, out=mean)
        result[name] = rounded(mean, shapes[name].dtype).reshape(shapes[name].shape)
    return result


def weighted_sums(
    updates: Mapping[str, Tensors], weights: Mapping[str, float]
) -> tuple[dict[str, Float64], Tensors]:
    """``Σ w_p x_p`` in float64, each tensor flat, and empty tensors of its shape and dtype.

    Raises:
        Defect: as :func:`weighted_mean`.
    """
    parties = sorted(updates)
    if not parties:
        raise Defect("the mean of no updates was asked for")
    for party in parties:
        weight = weights.get(party)
        if weight is None or not math.isfinite(weight) or weight <= 0:
            raise Defect(f"party {party} has weight {weight}; a mean needs a positive number")
    sums: dict[str, Float64] = {}
    shapes: Tensors = {}

    def take_in(party: str, tensors: Tensors) -> None:
        if party == parties[0]:
            shapes.update({name: t.detach().to("meta") for name, t in tensors.items()})
            sums.update({name: np.zeros(t.numel()) for name, t in tensors.items()})
        check_alike(tensors, party, shapes, parties[0])
        for name in sorted(tensors):
            _add(sums[name], tensors[name], float(weights[party]), first=party == parties[0])

    for party in parties:
        take_in(party, updates[party])  # no name here holds one while the next is read
    return sums, shapes


def _add(total: Float64, tensor: torch.Tensor, share: float, *, first: bool) -> None:
    source = tensor.detach().reshape(-1)
    for start in range(0, total.size, arithmetic.SLICE):
        block = slice(start, start + arithmetic.SLICE)
        part = np.multiply(as_float64(source[block]), share)
        if first:  # not added to 0.0, which would lose the sign of -0.0
            total[block] = part
        else:
            np.add(total[block], part, out=total[block])


def total_weight(updates: Mapping[str, Tensors], weights: Mapping[str, float]) -> float:
    """The sum of the weights of those who have an update, one after the other by name."""
    total = 0.0
    for party in sorted(updates):
        total += float(weights[party])
    return total
