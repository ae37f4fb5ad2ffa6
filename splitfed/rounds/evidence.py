"""What stands beside an alarm: how the updates of a round lie to each other.

Nothing here refuses anything. With two parties an honest update may well point away from mine:
a cosine of -0.62 was measured for honest partners whose classes hardly overlap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from splitfed.aggregation.arithmetic import SLICE
from splitfed.tensors import Tensors


def compared(admitted: Mapping[str, Tensors], base: Tensors, party: str) -> dict[str, Any]:
    """Each update's length, and its cosine with my own.

    Args:
        admitted: by party, the shared tensors that were sent.
        base: g before the round.
        party: own name.

    Returns:
        By party ``{"norm": ‖x - g‖, "cosine": with my own update}``, float64; the cosine is None
        for my own, where mine was excluded, and where one of the two is zero.
    """
    own = admitted.get(party)
    mine = 0.0 if own is None else math.sqrt(_inner(own, own, base))

    def measured(name: str) -> dict[str, Any]:
        tensors = admitted[name]
        norm, cosine = math.sqrt(_inner(tensors, tensors, base)), None
        if own is not None and name != party and norm and mine:
            cosine = _inner(own, tensors, base) / (norm * mine)
        return {"norm": norm, "cosine": cosine}

    # One after the other: besides the own only one is in memory at a time.
    return {name: measured(name) for name in sorted(admitted)}


def alarm_of(
    judgement: Mapping[str, Any], row: Mapping[str, Any], peers: Iterable[str]
) -> dict[str, Any]:
    """An alarm as the report holds it: ``round``, ``peer``, ``reason``, ``evidence``.

    With more than two parties nobody is singled out: the judgement is about the merge as a whole,
    and the evidence shows each update of it.

    Args:
        judgement: with the reason under ``alarm``.
        row: the history row of the round whose merge was judged.
        peers: all of them.
    """
    shown = ("images", "lost", "gained", "difference", "bound", "bad", "shift")
    return {
        "round": row["round"],
        "peer": ", ".join(sorted(peers)),
        "reason": judgement["alarm"],
        "evidence": {
            **{key: judgement[key] for key in shown},
            "outcome": row["outcome"],
            "updates": row.get("updates", {}),
        },
    }


def _inner(one: Tensors, other: Tensors, base: Tensors) -> float:
    """Inner product of two updates; a slice at a time, so that memory stays small."""
    total = 0.0
    for name, value in base.items():
        if value.dtype.is_floating_point:
            flat = [tensor.detach().reshape(-1) for tensor in (value, one[name], other[name])]
            for start in range(0, value.numel(), SLICE):
                zero, left, right = (part[start : start + SLICE].double() for part in flat)
                total += float(((left - zero) * (right - zero)).sum())
    return total
