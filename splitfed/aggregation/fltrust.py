"""FLTrust (Cao et al. 2021, *FLTrust: Byzantine-robust federated learning via trust
bootstrapping*, equations 2 to 4).

In the paper a server trains on a small clean *root set* and measures every update by its own.
There is no server here, and if every party trained on the root set for itself, each would get
another aggregate: training gives equal bytes on one machine, not on all. So one agreed party holds
the root set and nothing else, and its update, signed and stored like every other, is the measure.
All must trust that party, as the paper's clients trust their server.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from splitfed.aggregation.arithmetic import counted, floating, inner
from splitfed.aggregation.clipping import add_step, ended
from splitfed.tensors import Tensors, distance


def fltrust(updates: Mapping[str, Tensors], base: Mapping[str, torch.Tensor], root: str) -> Tensors:
    """``g + Σ t_p (‖d_0‖ / ‖d_p‖) d_p / Σ t_p`` with the steps ``d_p = x_p − g``, the root party's
    step ``d_0`` and the trust ``t_p = max(0, cos(d_p, d_0))`` over all parties but the root party.

    Steps and angles are over the floating-point tensors together; integers and booleans are the
    root party's. If nobody is trusted, or the root party did not move, the floating-point tensors
    stay at g: the paper leaves that open.

    The result never lies farther from g than the root party's update.
    """
    centre, measure = floating(base), floating(updates[root])
    moved = {name: np.zeros(tensor.numel()) for name, tensor in centre.items()}
    length = distance(measure, centre)
    total = 0.0
    for party in sorted(updates):
        floats = floating(updates[party])
        own = distance(floats, centre)
        if party == root or length == 0.0 or own == 0.0:
            continue
        trust = inner(floats, measure, centre) / own / length
        if trust > 0.0:
            add_step(moved, floats, centre, trust * (length / own))
            total += trust
    chosen = {name: updates[root][name].detach().clone() for name in counted(base)}
    return ended(moved, centre, total or 1.0) | chosen
