"""Centred clipping (Karimireddy et al. 2021, *Learning from history for Byzantine robust
optimization*, equation (CC), one step)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from splitfed.aggregation.arithmetic import (
    SLICE,
    Float64,
    as_float64,
    counted,
    floating,
    rounded,
)
from splitfed.aggregation.median import median_of
from splitfed.tensors import Tensors, distance


def centred_clipping(
    updates: Mapping[str, Tensors], base: Mapping[str, torch.Tensor], clip: float
) -> Tensors:
    """``g + 1/N Σ (x_p − g) min(1, c / ‖x_p − g‖)``: the centre is the shared tensors g that all
    agreed on last, distances are over the floating-point tensors together. Integers and booleans
    are their median.

    Each party, lying or not, moves the result by c / N at most.
    """
    parties = sorted(updates)
    centre = floating(base)
    moved = {name: np.zeros(tensor.numel()) for name, tensor in centre.items()}
    for party in parties:
        floats = floating(updates[party])
        length = distance(floats, centre)
        add_step(moved, floats, centre, clip / length if length > clip else 1.0)
    return ended(moved, centre, float(len(parties))) | median_of(updates, counted(base))


def add_step(total: Mapping[str, Float64], update: Tensors, centre: Tensors, share: float) -> None:
    """Add ``share · (update − centre)`` to ``total``, in place."""
    for name in sorted(update):
        source, middle = update[name].reshape(-1), centre[name].reshape(-1)
        for start in range(0, source.numel(), SLICE):
            block = slice(start, start + SLICE)
            step = np.subtract(as_float64(source[block]), as_float64(middle[block]))
            np.multiply(step, share, out=step)
            np.add(total[name][block], step, out=total[name][block])


def ended(moved: Mapping[str, Float64], centre: Tensors, divisor: float) -> Tensors:
    """``centre + moved / divisor``, rounded once to each tensor's dtype."""
    result: Tensors = {}
    for name in sorted(moved):
        values = np.divide(moved[name], divisor, out=moved[name])
        np.add(values, as_float64(centre[name].reshape(-1)), out=values)
        result[name] = rounded(values, centre[name].dtype).reshape(centre[name].shape)
    return result
