"""From noise to ε and back, by Opacus' accountants.

Decisions rest on the PRV accountant (Gopi, Lee & Wutschitz 2021, "Numerical composition of
differential privacy"), an upper bound; Rényi DP (Mironov 2017; Mironov, Talwar & Zhang 2019)
is computed beside it as a cross-check. Both cover adaptive composition of Poisson-subsampled
Gaussian mechanisms and nothing else; so does everything that splitfed releases under noise.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from splitfed.errors import PrivacyError

LARGEST_EPSILON = 50.0
"""Above this no figure is given: the guarantee would mean nothing, and the accountant's
discretisation is not made for it."""
SMALLEST_EPSILON = 0.05
"""The PRV accountant's own error bound is 0.01; below this it would be most of the figure."""
SMALLEST_DELTA = 1e-9
"""Below this the rounding errors of the PRV accountant's convolutions grow to the size of δ, and
its upper bound is none any more (by up to 0.1 at 1e-11 over 30,000 steps)."""
LARGEST_DELTA = 0.1
"""Above this ε falls below zero, where the accountant's grid ends."""
LARGEST_NOISE = 1e6
ACCOUNTANT = "PRV"
SLOPE = 1.3
"""About how fast log ε falls with log σ, for the first step of the search."""
DIGITS = 4
"""Noise multipliers are rounded up to this many decimals, so that every machine uses the same."""


@dataclass(frozen=True, kw_only=True)
class Spend:
    """Some steps of one Poisson-subsampled Gaussian mechanism.

    Attributes:
        sample_rate: q, the probability of each unit to be in a step; 1 without sampling.
        noise_multiplier: σ, the noise's standard deviation as a multiple of the sensitivity.
        steps: how many.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int


def epsilon(spends: Iterable[Spend], delta: float) -> float:
    """ε at ``delta`` of all ``spends`` together, by the PRV accountant's upper bound.

    Nothing spent is 0; what is above :data:`LARGEST_EPSILON` is infinity.

    Raises:
        PrivacyError: δ is outside what can be accounted.
    """
    return _prv(_history(spends), delta)


def epsilon_rdp(spends: Iterable[Spend], delta: float) -> float:
    """The same by Rényi DP: never tighter for long, computed in another way."""
    return _rdp(_history(spends), delta)


def noise_for(
    target: float,
    delta: float,
    *,
    sample_rate: float,
    steps: int,
    beside: Iterable[Spend] = (),
) -> float:
    """The noise multiplier σ with which ``steps``, and what is spent ``beside`` them, cost at
    most ``target`` at ``delta`` together; rounded up to four decimals.

    Raises:
        PrivacyError: no noise is enough, or target or δ is outside what can be accounted.
    """
    if not SMALLEST_EPSILON <= target <= LARGEST_EPSILON:
        raise PrivacyError(
            f"[privacy] epsilon = {target:g}",
            f"choose {SMALLEST_EPSILON} to {LARGEST_EPSILON:g}: beyond, no accountant here "
            "gives a figure that means anything",
        )
    return _noise(target, delta, sample_rate, steps, tuple(beside))


def _history(spends: Iterable[Spend]) -> tuple[tuple[float, float, int], ...]:
    """Steps of equal mechanisms together, in one order: equal spending, equal figure."""
    together: dict[tuple[float, float], int] = {}
    for spend in spends:
        key = (spend.noise_multiplier, spend.sample_rate)
        together[key] = together.get(key, 0) + spend.steps
    return tuple((*key, steps) for key, steps in sorted(together.items()) if steps)


@lru_cache(maxsize=4096)
def _prv(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    from splitfed.privacy import accountants  # only here: it loads Opacus, which takes seconds

    if not SMALLEST_DELTA <= delta <= LARGEST_DELTA:
        raise PrivacyError(
            f"delta = {delta:g}",
            f"choose {SMALLEST_DELTA:g} to {LARGEST_DELTA:g}: beyond, no accountant here gives a "
            "figure that can be relied on",
        )
    if not history:
        return 0.0
    # Rényi DP first: it is cheap and bounded in memory whatever the noise. Where even its
    # (looser) figure is far away, the PRV grid would be too large to build.
    if not _rdp(history, delta) <= 1.5 * LARGEST_EPSILON:
        return math.inf
    with _quiet():
        found = accountants.epsilon_prv(history, delta)
    return max(0.0, found) if found <= LARGEST_EPSILON else math.inf


@lru_cache(maxsize=4096)
def _rdp(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    from splitfed.privacy import accountants

    if not history:
        return 0.0
    with _quiet():
        found = accountants.epsilon_rdp(history, delta)
    return max(0.0, found) if math.isfinite(found) else math.inf


@lru_cache(maxsize=256)
def _noise(
    target: float, delta: float, sample_rate: float, steps: int, beside: tuple[Spend, ...]
) -> float:
    def cost(sigma: float) -> float:
        own = Spend(sample_rate=sample_rate, noise_multiplier=sigma, steps=steps)
        return _prv(_history((own, *beside)), delta)

    # Rényi DP is cheap, a little above PRV, and brackets the search.
    high = _noise_rdp(target, delta, sample_rate, steps, beside)
    while (above := cost(high)) > target:
        high *= 2
        if high > LARGEST_NOISE:
            raise PrivacyError(
                f"[privacy] epsilon = {target:g} at delta = {delta:g} cannot be reached with "
                f"{steps} steps at sample rate {sample_rate:g}",
                "raise epsilon or delta, or plan fewer rounds or steps",
            )
    # In logarithms, ε over σ is nearly a straight line: a few secant steps are enough, and
    # each evaluation takes up to a second.
    at, gap = math.log(high), math.log(above / target)
    step = gap / SLOPE
    for _ in range(20):
        at += step
        before, gap = gap, math.log(min(cost(math.exp(at)), 1e3) / target)
        if gap == before or abs(step) * high < 0.5 * 10.0**-DIGITS:
            break
        step *= gap / (before - gap)
    rounded = math.ceil(math.exp(at) * 10**DIGITS) / 10.0**DIGITS
    # More noise never costs more, but the accountant's grid jumps a little: make sure.
    while cost(rounded) > target:
        rounded = float(round(rounded + 10.0**-DIGITS, DIGITS))
    return float(rounded)


def _noise_rdp(
    target: float, delta: float, sample_rate: float, steps: int, beside: tuple[Spend, ...]
) -> float:
    """A first guess: about the noise multiplier that reaches ``target`` by Rényi DP."""

    def cost(sigma: float) -> float:
        own = Spend(sample_rate=sample_rate, noise_multiplier=sigma, steps=steps)
        return _rdp(_history((own, *beside)), delta)

    low, high = 0.0, 1.0
    while high < LARGEST_NOISE and cost(high) > target:
        low, high = high, 2 * high
    if high >= LARGEST_NOISE:  # its orders end too early for so small an ε
        return 1.0
    while high - low > 0.1 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > target else (low, middle)
    return high


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks that the accountants make on figures which are upper bounds anyway."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        logger = logging.getLogger("opacus")
        before = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(before)
