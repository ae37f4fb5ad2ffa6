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
