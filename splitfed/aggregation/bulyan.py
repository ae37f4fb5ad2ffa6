"""Bulyan over Krum (El Mhamdi et al. 2018, *The hidden vulnerability of distributed learning in
Byzantium*, section 4)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from splitfed.aggregation.arithmetic import Float64, added, coordinatewise
from splitfed.aggregation.krum import ranked, squares_between
from splitfed.aggregation.median import middle
from splitfed.tensors import Tensors


def bulyan(updates: Mapping[str, Tensors], byzantine: int) -> Tensors:
    """Krum picks θ = N − 2f parties, one after the other among those that are left; each value is
    then the mean of the β = θ − 2f values nearest to the median of the picked parties' values.

    Towards the end N − f − 2 of those that are left would be fewer than two nearest others, even
    none; a score counts two then, or all there are. Of two values equally near to the median the
    smaller one counts; they are added from the nearest. Integers and booleans are treated like the
    others, and rounded like the mean's.

    At most f of the picked parties lie, and each of the β values is no farther from the median
    than an honest one is. The median is between honest values.
    """
    squares, left, picked = squares_between(updates), sorted(updates), list[str]()
    for _ in range(len(updates) - 2 * byzantine):
        picked.append(ranked(squares, left, byzantine)[0])
        left.remove(picked[-1])
    picked.sort()
    kept = len(picked) - 2 * byzantine

    def nearest(values: Float64) -> Float64:
        values = np.sort(values, axis=0)
        away = np.abs(np.subtract(values, middle(values)))
        order = np.argsort(away, axis=0, kind="stable")[:kept]
        return np.divide(added(np.take_along_axis(values, order, axis=0)), float(kept))

    return coordinatewise(updates, picked, sorted(updates[picked[0]]), nearest)
