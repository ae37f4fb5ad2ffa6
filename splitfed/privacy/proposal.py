"""Usual privacy terms, for whoever begins an agreement and has not chosen others."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from splitfed.config import DP_SGD
from splitfed.privacy.mechanism import below_one_in

EPSILON = 8.0
DELTA = 1e-5
SAMPLE_RATE = 0.25
STEPS_PER_ROUND = 8
MAX_GRAD_NORM = 1.0
FUSION_SHARE = 0.375
"""Of epsilon for the outputs under "dp-frozen": by itself, 3 of 8; as ε adds up less than
linearly, 7.25 are left for the rounds."""


def usual_terms(
    mode: str,
    *,
    records: int,
    epsilon: float | None = None,
    delta: float | None = None,
    outputs: bool = False,
) -> dict[str, Any]:
    """The keys of [privacy] for ``mode``, in the order in which they are written.

    Args:
        records: public number of units of the party that begins; δ is well below 1/n.
        epsilon: of all rounds together; None: 8.
        delta: None: 1e-5, less for more than 10,000 units.
        outputs: whether outputs are shared for fusion.
    """
    if mode == "none":
        return {"mode": mode}
    terms: dict[str, Any] = {
        "mode": mode,
        "epsilon": EPSILON if epsilon is None else epsilon,
        "delta": min(DELTA, below_one_in(records)) if delta is None else delta,
        "max_grad_norm": MAX_GRAD_NORM,
    }
    if mode in DP_SGD:
        terms |= {
            "sample_rate": SAMPLE_RATE,
            "steps_per_round": STEPS_PER_ROUND,
            "unit": "record",
        }
    if outputs and mode == "dp-frozen":
        terms["fusion_epsilon"] = FUSION_SHARE * terms["epsilon"]
    return terms


def usual_arguments(mode: str, takes: Container[str]) -> dict[str, Any]:
    """Arguments of a model factory that ``mode`` wants, as far as the factory takes them:
    tanh, which trains better under clipping and noise (Papernot et al. 2021), and GroupNorm,
    since BatchNorm mixes records."""
    wanted = {"activation": "tanh", "norm": "group"} if mode in DP_SGD else {}
    return {key: value for key, value in wanted.items() if key in takes}
