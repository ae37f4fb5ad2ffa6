"""Opacus' two accountants, with the Rényi DP of one step computed once.

It depends on noise and sample rate alone, takes a tenth of a second, and stands in every figure
several times: once for the cross-check, and twice in the size of the PRV accountant's grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opacus.accountants import PRVAccountant, RDPAccountant
from opacus.accountants.analysis.prv import Domain
from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

Part = tuple[float, float, int]
"""Some steps of one mechanism: noise multiplier, sample rate, number of steps."""
MARGIN = 3.0
"""Added to the PRV grid's half-width; from the code of Gopi, Lee & Wutschitz, as in Opacus."""


def epsilon_prv(history: Iterable[Part], delta: float) -> float:
    """Upper bound of ε at ``delta`` by numerical composition (Gopi, Lee & Wutschitz 2021)."""
    accountant = _RememberingPRV()
    accountant.history = list(history)
    return float(accountant.get_epsilon(delta))


def epsilon_rdp(history: Iterable[Part], delta: float) -> float:
    """ε at ``delta`` by Rényi DP; not finite where no order gives a figure."""
    total = sum(steps * _step(noise, rate) for noise, rate, steps in history)
    orders = RDPAccountant.DEFAULT_ALPHAS
    found, _ = get_privacy_spent(orders=orders, rdp=total, delta=delta)
    return float(found)


@lru_cache(maxsize=1024)
def _step(noise_multiplier: float, sample_rate: float) -> NDArray[np.float64]:
    """Rényi DP of one step, at each of Opacus' orders."""
    orders = RDPAccountant.DEFAULT_ALPHAS
    found: NDArray[np.float64] = compute_rdp(
        q=sample_rate, noise_multiplier=noise_multiplier, steps=1, orders=orders
    )
    found.setflags(write=False)
    return found


class _RememberingPRV(PRVAccountant):
    """Opacus' accountant on the grid that it would choose itself, to the last bit."""

    def _get_domain(
        self,
        prvs: Sequence[Any],
        num_self_compositions: Sequence[int],
        eps_error: float,
        delta_error: float,
    ) -> Domain:
        """As in Opacus: wide enough for all steps together and for each one alone
        (Gopi, Lee & Wutschitz 2021, remark 5.6)."""
        steps = sum(num_self_compositions)
        widths = [epsilon_rdp(self.history, delta_error / 4), eps_error]
        for noise, rate, _ in self.history:
            widths.append(epsilon_rdp([(noise, rate, 1)], delta_error / (8 * steps)))
        half = max(widths) + MARGIN
        mesh = eps_error / np.sqrt(steps * np.log(12 / delta_error) / 2)
        return Domain.create_aligned(-half, half, mesh)
