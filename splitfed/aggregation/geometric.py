"""The geometric median by the smoothed Weiszfeld algorithm (RFA: Pillutla et al. 2022, *Robust
aggregation for federated learning*, algorithm 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from splitfed.aggregation.arithmetic import Float64, coordinatewise, counted, floating, rounded
from splitfed.aggregation.mean import total_weight, weighted_sums
from splitfed.tensors import Tensors, distance

STEPS = 16
"""Steps of the algorithm, always as many: whether it has settled must not be asked of rounded
numbers. The paper's experiments take 3, from a mean that an attacker may have moved anywhere."""
SMOOTHING = 1e-6
"""ν: a distance below it counts as this."""


def geometric_median(updates: Mapping[str, Tensors], weights: Mapping[str, float]) -> Tensors:
    """``argmin_v Σ w_p ‖v − x_p‖`` over the floating-point tensors together, smoothed by ν.

    Each step is ``v ← Σ β_p x_p / Σ β_p`` with ``β_p = w_p / max(ν, ‖v − x_p‖)``. It begins at the
    weighted coordinate-wise median, not at the mean: so it is near the honest updates from the
    start, however far away the others lie. Integers and booleans are that median too; where the
    weights on both sides are equal, the smaller value.

    Lying parties with less than half of the weight cannot take it far from the honest updates.
    """
    parties = sorted(updates)
    floats = {party: floating(updates[party]) for party in parties}
    shapes = floats[parties[0]]
    # The median of float64 copies would be exact, and cost N copies: a start needs no exactness.
    start = coordinatewise(floats, parties, sorted(shapes), _weighted(parties, weights))
    middle = {name: start[name].to(torch.float64) for name in start}
    for _ in range(STEPS):
        shares: dict[str, float] = {}
        for party in parties:
            share = float(weights[party]) / max(SMOOTHING, distance(floats[party], middle))
            if share > 0.0:  # 0: so far away that its distance is infinite in float64
                shares[party] = share
        near = {party: floats[party] for party in shares}
        sums, _ = weighted_sums(near, shares)
        total = total_weight(near, shares)
        for name, values in sums.items():
            np.divide(values, total, out=values)
            middle[name] = torch.from_numpy(values).reshape(shapes[name].shape)
    result = coordinatewise(
        updates, parties, counted(updates[parties[0]]), _weighted(parties, weights)
    )
    for name, tensor in middle.items():
        flat = rounded(tensor.numpy().reshape(-1), shapes[name].dtype)
        result[name] = flat.reshape(tensor.shape)
    return {name: result[name] for name in sorted(result)}


def _weighted(parties: Sequence[str], weights: Mapping[str, float]) -> Callable[[Float64], Float64]:
    """The weighted median of each column: the first value, from the smallest, at which half of
    the weight is reached."""
    shares = np.array([float(weights[party]) for party in parties])

    def reduce(values: Float64) -> Float64:
        order = np.argsort(values, axis=0, kind="stable")
        reached = np.add.accumulate(shares[order], axis=0)
        row = np.argmax(reached >= np.divide(reached[-1], 2.0), axis=0)[np.newaxis]
        party = np.take_along_axis(order, row, axis=0)
        return np.array(np.take_along_axis(values, party, axis=0)[0])

    return reduce
