"""Krum and Multi-Krum (Blanchard et al. 2017, *Machine learning with adversaries: Byzantine
tolerant gradient descent*, section 4).

A party's score is the sum of the squared distances to its N − f − 2 nearest others. Distances are
measured over the floating-point tensors together; integers come with the update that is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from splitfed.aggregation.arithmetic import floating
from splitfed.aggregation.mean import weighted_mean
from splitfed.tensors import Tensors, distance

Squares = Mapping[tuple[str, str], float]


def krum(updates: Mapping[str, Tensors], byzantine: int) -> Tensors:
    """The update of the party with the lowest score; of equal ones, the first by name."""
    chosen = ranked(squares_between(updates), sorted(updates), byzantine)[0]
    return {name: updates[chosen][name].detach().clone() for name in sorted(updates[chosen])}


def multi_krum(updates: Mapping[str, Tensors], byzantine: int) -> Tensors:
    """The mean of the N − f parties with the lowest scores (m = n − f, as in the paper's
    experiments; Bareilles et al. 2026 prove that Multi-Krum is robust)."""
    best = ranked(squares_between(updates), sorted(updates), byzantine)
    chosen = {party: updates[party] for party in best[: len(best) - byzantine]}
    return weighted_mean(chosen, dict.fromkeys(chosen, 1.0))


def squares_between(updates: Mapping[str, Tensors]) -> Squares:
    """The squared distance between every two parties, in both orders."""
    floats = {party: floating(updates[party]) for party in sorted(updates)}
    squares: dict[tuple[str, str], float] = {}
    for one, other in combinations(sorted(floats), 2):
        length = distance(floats[one], floats[other])
        squares[one, other] = squares[other, one] = length * length
    return squares


def ranked(squares: Squares, parties: Sequence[str], byzantine: int) -> list[str]:
    """``parties`` from the lowest score to the highest, equal ones by name.

    A score counts two others at least: by the nearest one alone, the two parties that are nearest
    to each other always tie, and the name would decide.
    """
    near = max(2, len(parties) - byzantine - 2)

    def score(party: str) -> float:
        total = 0.0
        for square in sorted(squares[party, other] for other in parties if other != party)[:near]:
            total += square
        return total

    return sorted(parties, key=lambda party: (score(party), party))
