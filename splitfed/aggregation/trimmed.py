"""The coordinate-wise trimmed mean (Yin et al. 2018, *Byzantine-robust distributed learning:
towards optimal statistical rates*, definition 2, with β = byzantine / N)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from splitfed.aggregation.arithmetic import Float64, added, coordinatewise
from splitfed.tensors import Tensors


def trimmed_mean(updates: Mapping[str, Tensors], byzantine: int) -> Tensors:
    """Each value is the mean of the parties' values without the ``byzantine`` smallest and as many
    largest ones, added from the smallest; integers and booleans too, rounded like the mean's.

    So many lying parties cannot move a value out of the range of the honest ones.
    """
    parties = sorted(updates)
    kept = len(parties) - 2 * byzantine

    def trimmed(values: Float64) -> Float64:
        values = np.sort(values, axis=0)[byzantine : byzantine + kept]
        return np.divide(added(values), float(kept))

    return coordinatewise(updates, parties, sorted(updates[parties[0]]), trimmed)
