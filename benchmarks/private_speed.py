"""Images a second of training under differential privacy, as a share of plain training.

The demo's CNN on random images, one thread, batches of 512, all in one process and one run, taking
turns: plain SGD on all layers; splitfed's own trainer for "dp-frozen" (per-record gradients of the
shared layers only) and "dp-all"; and Opacus' modes for the same layers, each with Opacus' own
optimizer and noise. Wanted: at least 0.5 of plain, and no Opacus mode faster for the same layers.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from opacus.grad_sample import (
    GradSampleModule,
    GradSampleModuleExpandedWeights,
    GradSampleModuleFastGradientClipping,
)
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional

from measuring import arguments, middle, publish, take_turns
from splitfed.config import TrainingConfig
from splitfed.data import ImageSet
from splitfed.models import ThreeLayerCNN
from splitfed.privacy import Mechanism
from splitfed.privacy.frozen import freeze_private
from splitfed.sharing import split_model
from splitfed.training.private import PrivateTrainer

BATCH = 512
SETS = ("dp-frozen", "dp-all")
WANTED = 0.5


def model_for(mode: str) -> nn.Module:
    """The demo's CNN with the layers of ``mode`` asking for gradients."""
    torch.manual_seed(1)
    model = ThreeLayerCNN(activation="tanh")
    if mode == "dp-frozen":
        freeze_private(model, split_model(model), seed=1)
    return model.train()


def plain(images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """One step of SGD on all layers."""
    model = model_for("dp-all")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(model(images), labels))
        optimizer.step()

    return step


def ours(mode: Any, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    """One noised step of splitfed's trainer, with every record in it."""
    model = model_for(mode)
    mechanism = Mechanism(
        mode=mode,
        unit="record",
        delta=1e-5,
        noise_multiplier=1.0,
        max_grad_norm=1.0,
        sample_rate=1.0,
        steps_per_round=1,
        rounds=1,
    )
    trainer = PrivateTrainer(
        model,
        ImageSet(images=images, labels=labels),
        TrainingConfig(),
        mechanism=mechanism,
        split=split_model(model),
        classes=[str(digit) for digit in range(10)],
        records=len(images),
    )
    return lambda: void(trainer.train_round(1))


def opacus_mode(
    name: str, mode: str, images: torch.Tensor, labels: torch.Tensor
) -> Callable[[], None]:
    """One step of Opacus on the layers of ``mode``, with its own clipping and noise."""
    base = deepcopy(model_for(mode))
    wrap: dict[str, Callable[[], Any]] = {
        "hooks": lambda: GradSampleModule(base),
        "functorch": lambda: GradSampleModule(base, force_functorch=True),
        "ew": lambda: GradSampleModuleExpandedWeights(base),
        "ghost": lambda: GradSampleModuleFastGradientClipping(
            base, max_grad_norm=1.0, use_ghost_clipping=True
        ),
    }
    model = wrap[name]()
    model.train()
    inner = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    make = DPOptimizerFastGradientClipping if name == "ghost" else DPOptimizer
    optimizer = make(inner, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch_size=BATCH)
    loss_of: Any = nn.CrossEntropyLoss()
    if name == "ghost":
        loss_of = DPLossFastGradientClipping(model, optimizer, loss_of, "mean")

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model(images), labels).backward()
        optimizer.step()

    return step


def void(_: object) -> None:
    """Nothing comes back from a step."""


def timed(step: Callable[[], None], repeats: int) -> Callable[[], dict[str, Any]]:
    """Images a second over ``repeats`` steps."""

    def measure() -> dict[str, Any]:
        began = time.perf_counter()
        for _ in range(repeats):
            step()
        return {"images_per_s": repeats * BATCH / (time.perf_counter() - began)}

    return measure


def main() -> None:
    parser = arguments("private training speed as a share of plain training")
    parser.add_argument("--repeats", type=int, default=3, help="steps a turn")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # Opacus' remarks on hooks
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 1, 28, 28, generator=draw)
    labels = torch.randint(0, 10, (BATCH,), generator=draw)
    steps = {"plain": plain(images, labels)}
    for mode in SETS:
        steps[f"splitfed, {mode}"] = ours(mode, images, labels)
        for name in ("hooks", "functorch", "ew", "ghost"):
            steps[f"opacus {name}, {mode}"] = opacus_mode(name, mode, images, labels)
    for step in steps.values():
        step()  # first calls import and allocate
    turns = take_turns(options.times, {n: timed(s, options.repeats) for n, s in steps.items()})
    rates = {name: [turn["images_per_s"] for turn in each] for name, each in turns.items()}
    shares = {
        name: middle([a / b for a, b in zip(rates[name], rates["plain"], strict=True)])
        for name in rates
    }
    met = {}
    for mode in SETS:
        best = max(share for name, share in shares.items() if "opacus" in name and mode in name)
        met[mode] = shares[f"splitfed, {mode}"] >= max(WANTED, best)
    rows = [
        [
            name,
            f"{middle(rates[name]):.0f}",
            f"{shares[name]:.2f}",
            f"≥ {WANTED}, ≥ every Opacus mode" if "splitfed" in name else "",
        ]
        for name in rates
    ]
    publish(
        "private_speed",
        options.out,
        ["training step, batch 512, one thread", "images/s", "share of plain", "wanted"],
        rows,
        {"turns": turns, "shares": shares, "met": met},
    )


if __name__ == "__main__":
    main()
