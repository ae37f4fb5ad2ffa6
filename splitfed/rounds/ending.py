"""How a federation ended for one party."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from splitfed.tensors import Tensors

EXCLUDED_CURE = (
    "look at [training] and [aggregation] max_update_norm; the model so far is kept in the run "
    "folder; begin anew with another --out"
)


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How the federation ended for this party.

    Attributes:
        outcome: "done"; "alone" when rounds were trained without the peers; "excluded" when our
            own updates were excluded too often; "budget" when the privacy budget was spent.
        confirmed: every peer is known to have closed the last round too.
        reason: why alone; empty otherwise.
        shared: g of the last closed round.
        received: what the last fusion brought: each admitted party's outputs or private layers,
            the own included; None without fusion, or where it came to nothing.
    """

    outcome: Literal["done", "alone", "excluded", "budget"]
    confirmed: bool
    reason: str
    shared: Tensors
    received: Mapping[str, Tensors] | None = None


def after_voids(voids: int, excluded: Mapping[str, str], party: str) -> tuple[str, str]:
    """How a federation ends for ``party`` after too many void rounds, "excluded" or "alone", and
    why. ``excluded``: whom the last one excluded, with reasons."""
    if party in excluded:
        last = f"the last one excluded our own update: {excluded[party]}"
        return "excluded", f"{voids} rounds were void and {last}"
    last = f"excluded {', '.join(sorted(excluded))}" if excluded else "had too few updates"
    return "alone", f"{voids} rounds were void, the last one {last}"
