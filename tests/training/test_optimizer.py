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


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_step_does_not_import_the_compiler(kind: str) -> None:
    code = (
        "import sys, torch\n"
        "from torch import nn\n"
        "from splitfed.config import TrainingConfig\n"
        "from splitfed.training.optimizer import NamedOptimizer\n"
        "model = nn.Linear(3, 2)\n"
        f"settings = TrainingConfig(optimizer={kind!r})\n"
        "optimizer = NamedOptimizer(dict(model.named_parameters()), settings)\n"
        "optimizer.zero_grad()\n"
        "torch.autograd.backward(model(torch.ones(1, 3)).sum())\n"
        "optimizer.step()\n"
        "assert model.weight.grad is not None\n"
        "print('torch._dynamo' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (answer.returncode, answer.stdout.strip()) == (0, "False"), answer.stderr
