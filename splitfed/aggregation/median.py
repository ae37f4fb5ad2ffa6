"""The coordinate-wise median (Yin et al. 2018, *Byzantine-robust distributed learning: towards
optimal statistical rates*, definition 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from splitfed.aggregation.arithmetic import Float64, coordinatewise
from splitfed.tensors import Tensors


def median(updates: Mapping[str, Tensors]) -> Tensors:
    """Each value is the median of the parties' values, of an even number the mean of the middle
    two; integers and booleans too, rounded like the mean's.

    Fewer than half lying parties cannot move a value out of the range of the honest ones.
    """
    parties = sorted(updates)
    return median_of(updates, sorted(updates[parties[0]]))


def median_of(updates: Mapping[str, Tensors], names: Sequence[str]) -> Tensors:
    """The median of these tensors alone."""
    return coordinatewise(updates, sorted(updates), names, middle)


def middle(values: Float64) -> Float64:
    """float64 [parties, block] to the medians, [block]."""
    values = np.sort(values, axis=0)
    half = len(values) // 2
    if len(values) % 2:
        return np.array(values[half])
    return np.array(np.divide(np.add(values[half - 1], values[half]), 2.0))
