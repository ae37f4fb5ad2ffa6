"""The optimizer is torch's own, without the start-up cost of torch's compiler."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from splitfed.config import TrainingConfig
from splitfed.training.optimizer import NamedOptimizer

KINDS: dict[str, type[torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def steps_of(model: nn.Module, optimizer: Any) -> list[torch.Tensor]:
    inputs = torch.linspace(-1, 1, 12).reshape(4, 3)
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(model(inputs).square().mean())
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_steps_are_those_of_torch_to_the_last_bit(kind: str) -> None:
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    settings = {"momentum": 0.9} if kind == "sgd" else {}
    config = TrainingConfig(optimizer=kind, lr=0.1, weight_decay=0.01, **settings)
    mine = NamedOptimizer(dict(ours.named_parameters()), config)
    reference = KINDS[kind](theirs.parameters(), lr=0.1, weight_decay=0.01, **settings)
    before = [parameter.detach().clone() for parameter in ours.parameters()]
    after, expected = steps_of(ours, mine), steps_of(theirs, reference)
    assert not any(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after, expected, strict=True))


def test_steps_do_not_import_the_compiler() -> None:
    """Of any optimizer, and under the switches that make them deterministic."""
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from splitfed.config import TrainingConfig\n"
        "from splitfed.training.determinism import deterministic\n"
        "from splitfed.training.optimizer import NamedOptimizer\n"
        f"for kind in {sorted(KINDS)!r}:\n"
        "    model = nn.Linear(3, 2)\n"
        "    settings = TrainingConfig(optimizer=kind)\n"
        "    optimizer = NamedOptimizer(dict(model.named_parameters()), settings)\n"
        "    optimizer.zero_grad()\n"
        "    with deterministic():\n"
        "        assert torch.are_deterministic_algorithms_enabled()\n"
        "        torch.autograd.backward(model(torch.ones(1, 3)).sum())\n"
        "        optimizer.step()\n"
        "    assert not torch.are_deterministic_algorithms_enabled()\n"
        "    assert model.weight.grad is not None\n"
        "    name = type(optimizer.inner).__name__\n"
        "    print(name, *(m in sys.modules for m in ('torch._dynamo', 'torch._inductor')))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    names = ["Adam", "AdamW", "SGD"]
    assert answer.stdout.splitlines() == [f"{name} False False" for name in names]
