"""Averaging of private layers after their channels were brought into one order.

Averaging two networks channel by channel mixes unrelated features. Weight matching (Singh & Jaggi
2020, *Model fusion via optimal transport*; Wang et al. 2020, *Federated learning with matched
averaging*; Ainsworth et al. 2023, *Git Re-Basin*) first permutes the channels of one network so
that its weights lie as close to the other's as they can, which leaves its function as it is: see
:mod:`splitfed.fusion.groups`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from splitfed.aggregation import weighted_mean
from splitfed.errors import Defect
from splitfed.fusion.groups import Group, Place, permuted
from splitfed.tensors import Tensors, all_finite

SWEEPS = 50
"""Sweeps over all groups at most; two to five are usual."""
TIE = 1e-10
"""Similarities closer than this, relative to the largest, count as equal: the last bits of a
matrix product differ from machine to machine, and dead channels do tie."""

_Matrix = npt.NDArray[np.float64]


def matched_average(
    parties: Mapping[str, Tensors], weights: Mapping[str, float], groups: Sequence[Group]
) -> Tensors:
    """The weighted mean of the parties' private tensors, all matched to the first by name.

    Args:
        parties: party -> tensors; the same names, shapes and dtypes for every party.
        weights: party -> weight, finite and positive; need not sum to one.
        groups: as :func:`~splitfed.fusion.groups.channel_groups` found them.

    Returns:
        New tensors; without groups exactly those of
        :func:`~splitfed.aggregation.weighted_mean`, whatever the order of the mappings.

    Raises:
        Defect: as :func:`match` and :func:`~splitfed.aggregation.weighted_mean`.
    """
    if not parties:
        raise Defect("the matched average of no parties was asked for")
    first = min(parties)
    matched = {
        party: tensors if party == first else match(parties[first], tensors, groups)
        for party, tensors in parties.items()
    }
    return weighted_mean(matched, weights)


def match(reference: Tensors, other: Tensors, groups: Sequence[Group]) -> Tensors:
    """``other`` with the channels of every group in the order that fits ``reference`` best.

    Maximises the sum of the inner products of all tensors, each first scaled to a mean square of
    one: every number counts alike, whether it is a weight or a running variance a hundred times
    as large. For one group that is a linear assignment, solved exactly; several are improved in
    turn until none changes (Git Re-Basin, algorithm 1, coordinate descent).

    A consumer's input channels say nothing while its output channels are still in disorder. So
    the first sweep follows the data through the network and leaves out tensors that a later group
    permutes; a permuted copy, which agrees exactly from the first layer on, is thereby always
    recovered, unless channels of a layer are alike in all that comes before the next.

    Args:
        reference, other: names, shapes and dtypes alike; finite.
        groups: in the order in which the channels are computed.

    Returns:
        New tensors where a group has them, and those of ``other`` elsewhere.

    Raises:
        Defect: tensors that do not fit each other or the groups, or are not finite.
    """
    _check(reference, other, groups)
    result = dict(other)
    for index, group in enumerate(groups):
        later = {name for after in groups[index + 1 :] for name, _, _ in after.places}
        settled = [place for place in group.places if place[0] not in later]
        result = permuted(result, group, _best_order(reference, result, group, settled))
    for _ in range(SWEEPS):
        done = True
        for group in groups:
            order = _best_order(reference, result, group, group.places)
            if order != list(range(group.size)):
                result, done = permuted(result, group, order), False
        if done:
            break
    return result


def _best_order(
    reference: Tensors, other: Tensors, group: Group, places: Sequence[Place]
) -> list[int]:
    """Which channel of ``other`` each channel of ``reference`` is served best by.

    The order that is there stays unless another one is better by more than rounding.
    """
    from scipy.optimize import linear_sum_assignment

    stay = list(range(group.size))
    similar = np.zeros((group.size, group.size))
    for place in places:
        similar += _rows(reference, group.size, place) @ _rows(other, group.size, place).T
    largest = float(np.abs(similar).max())
    if largest == 0.0:
        return stay
    similar = np.round(similar / (largest * TIE))  # in units of a tie: whole numbers
    rows, columns = linear_sum_assignment(similar, maximize=True)
    gain = float(similar[rows, columns].sum() - np.trace(similar))
    return [int(column) for column in columns] if gain > group.size else stay


def _rows(tensors: Tensors, size: int, place: Place) -> _Matrix:
    """What belongs to each channel at ``place``: [size, ...], the whole with mean square one.

    Centring over the channels would add a constant to every assignment: the same would be best.
    """
    name, dim, _ = place
    values = tensors[name].detach().to("cpu", torch.float64)
    rows: _Matrix = values.movedim(dim, 0).reshape(size, -1).numpy()
    largest = float(np.abs(rows).max(initial=0.0))
    if largest == 0.0:
        return rows
    rows = rows / largest  # first: the square of 1e200 is no number
    scaled: _Matrix = rows / np.sqrt(np.mean(np.square(rows)))
    return scaled


def _check(reference: Tensors, other: Tensors, groups: Sequence[Group]) -> None:
    for name in sorted(reference.keys() ^ other.keys()):
        raise Defect(f"tensor {name} is not in both sets that are to be matched")
    for name, tensor in reference.items():
        if tensor.shape != other[name].shape:
            raise Defect(
                f"tensor {name} is {list(tensor.shape)} in one set and "
                f"{list(other[name].shape)} in the other"
            )
    for tensors in (reference, other):
        unfit = all_finite(tensors)
        if unfit is not None:
            raise Defect(f"tensor {unfit} is not finite; admission refuses such tensors")
