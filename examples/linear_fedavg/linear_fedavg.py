"""Three clients fit one line by federated averaging, checked against averaging by hand."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from splitfed import Federation, Party
from splitfed.config import TrainingConfig
from splitfed.models import initialise

ROUNDS, STEPS, RATE, POINTS = 20, 5, 0.1, 60


def clients() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Three pieces of y = 2x - 1 with a little noise; no client sees the whole range."""
    draw = np.random.default_rng(0)
    pieces = {}
    for name, low in (("north", -1.0), ("middle", -0.3), ("south", 0.4)):
        x = draw.uniform(low, low + 0.6, POINTS).astype(np.float32)
        y = (2 * x - 1 + draw.normal(0, 0.05, POINTS)).astype(np.float32)
        pieces[name] = (torch.from_numpy(x[:, None]), torch.from_numpy(y))
    return pieces


Pieces = dict[str, tuple[torch.Tensor, torch.Tensor]]


def federated(pieces: Pieces) -> tuple[float, float, float, float]:
    """w and b by splitfed, then w and b at the start."""
    start = initialise("splitfed.models:Linear", {"features": 1, "outputs": 1}, 0).state_dict()
    with tempfile.TemporaryDirectory() as out:
        Federation(
            model="splitfed.models:Linear",
            arguments={"features": 1, "outputs": 1},
            rounds=ROUNDS,
            classes=(),
            privacy="none",
            max_update_norm=100.0,
            training=TrainingConfig(
                loss="mse", steps=STEPS, batch_size=POINTS, lr=RATE, momentum=0.0, fit_epochs=0
            ),
        ).simulate([Party(name, piece) for name, piece in pieces.items()], out=Path(out))
        model = load_file(Path(out) / "north" / "model.safetensors")
    names = sorted(model, key=lambda name: model[name].ndim)
    bias, weight = (float(model[name].reshape(-1)[0]) for name in names)
    first = {name: float(value.reshape(-1)[0]) for name, value in start.items()}
    return weight, bias, first[names[1]], first[names[0]]


def by_hand(pieces: Pieces, w: float, b: float) -> tuple[float, float]:
    """The same with NumPy: gradient steps on each client, then the mean."""
    for _ in range(ROUNDS):
        ends = []
        for x, y in pieces.values():
            a, c = w, b
            for _ in range(STEPS):
                error = a * x[:, 0].double().numpy() + c - y.double().numpy()
                a -= RATE * 2 * float((error * x[:, 0].double().numpy()).mean())
                c -= RATE * 2 * float(error.mean())
            ends.append((a, c))
        w, b = (sum(values) / len(ends) for values in zip(*ends, strict=True))
    return w, b


def main() -> int:
    pieces = clients()
    w, b, first_w, first_b = federated(pieces)
    hand_w, hand_b = by_hand(pieces, first_w, first_b)
    difference = max(abs(w - hand_w), abs(b - hand_b))
    print(f"splitfed: y = {w:.6f} x + {b:.6f}")
    print(f"by hand:  y = {hand_w:.6f} x + {hand_b:.6f}")
    print(f"largest difference {difference:.2e}")
    return 0 if difference < 1e-5 else 1


if __name__ == "__main__":
    sys.exit(main())
