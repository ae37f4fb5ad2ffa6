"""What the attacks of papers send is what those papers say, computed here from their formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from splitfed.aggregation import weighted_mean
from splitfed.rounds.gates import shorten
from splitfed.simulation.attacks import (
    Scene,
    inner_product,
    inner_product_small,
    noise,
    replacement,
    scaling,
)
from splitfed.tensors import Tensors

BOUND = 3.0
SHAPES = {"w": (40, 50), "v": (30,)}


def tensors(seed: int, length: float = 1.0) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    return {
        name: length * torch.randn(shape, generator=draw, dtype=torch.float64)
        for name, shape in SHAPES.items()
    }


BASE = tensors(100)


def near(seed: int) -> Tensors:
    """An update whose length is a fraction of the bound, with a mean step of its own."""
    return {name: BASE[name] + step + 0.003 for name, step in tensors(seed, 0.01).items()}


def scene(honest: int, attackers: int, own: int = 99) -> Scene:
    return Scene(
        own=near(own), base=BASE, honest=tuple(near(seed) for seed in range(honest)),
        attackers=attackers, bound=BOUND, seed=3, party="m", round=2,
    )  # fmt: skip


def values(update: Tensors) -> np.ndarray:
    return np.concatenate([update[name].numpy().ravel() for name in sorted(update)])


def step(update: Tensors) -> np.ndarray:
    return values(update) - values(BASE)


def honest_mean(one: Scene) -> np.ndarray:
    return np.mean([step(update) for update in one.honest], axis=0)


def mean_of_all(one: Scene, sent: Tensors) -> np.ndarray:
    """The step that FedAvg with equal weights makes where every attacker sends ``sent``."""
    updates = {f"h{place}": update for place, update in enumerate(one.honest)}
    updates |= {f"m{place}": sent for place in range(one.attackers)}
    return step(weighted_mean(updates, dict.fromkeys(updates, 1.0)))


CASES = [(6, 1), (5, 2), (4, 3)]
close = pytest.approx


@pytest.mark.parametrize(("honest", "attackers"), CASES)
def test_scaling_is_a_hundred_times_the_own_step(honest: int, attackers: int) -> None:
    """γ (X − G) + G of Bagdasaryan et al., whoever else is there; the gate leaves its direction."""
    one = scene(honest, attackers)
    sent = scaling(one)
    assert step(sent) == close(100 * step(one.own), abs=1e-12)
    left, _ = shorten(sent, BASE, BOUND)
    assert np.linalg.norm(step(left)) == close(BOUND, rel=1e-9)
    along = step(one.own) / np.linalg.norm(step(one.own))
    assert step(left) == close(BOUND * along, abs=1e-9)


@pytest.mark.parametrize(("honest", "attackers"), CASES)
def test_replacement_makes_the_mean_of_all_the_own_model_beside_what_others_add(
    honest: int, attackers: int
) -> None:
    """Equation 3 of Bagdasaryan et al.: n / η (X − G) + G, here by f who send the same. The mean
    is X where the honest have converged, and X plus their part of it where they have not."""
    one = scene(honest, attackers)
    sent = replacement(one)
    parties = honest + attackers
    assert step(sent) == close(parties / attackers * step(one.own), abs=1e-12)
    added = sum(step(update) for update in one.honest) / parties
    assert mean_of_all(one, sent) == close(step(one.own) + added, abs=1e-9)


@pytest.mark.parametrize(
    ("attack", "epsilon"),
    [
        (inner_product, lambda honest, attackers: 1.1 * honest / attackers),
        (inner_product_small, lambda honest, attackers: 0.5),
    ],
    ids=["large", "small"],
)
@pytest.mark.parametrize(("honest", "attackers"), CASES)
def test_inner_product_manipulation_is_the_honest_mean_times_minus_epsilon(
    attack: Callable[[Scene], Tensors],
    epsilon: Callable[[int, int], float],
    honest: int,
    attackers: int,
) -> None:
    """−ε / (m − q) Σ of the honest, Xie et al.; a large ε turns the mean of all, a small one only
    shortens it. What the attacker itself trained has no part in it."""
    one = scene(honest, attackers)
    sent, times = attack(one), epsilon(honest, attackers)
    assert step(sent) == close(-times * honest_mean(one), abs=1e-12)
    assert values(attack(scene(honest, attackers, own=98))) == close(values(sent), abs=1e-12)
    left = (honest - times * attackers) / (honest + attackers)
    assert mean_of_all(one, sent) == close(left * honest_mean(one), abs=1e-9)
    assert (left < 0) == (attack is inner_product)


def test_noise_is_gaussian_in_every_direction_and_as_long_as_the_bound() -> None:
    """The Gaussian attack of Blanchard et al., cut to the bound: 2030 values with the mean,
    spread, skew and kurtosis of a normal distribution, in which nothing of any update shows."""
    one = scene(6, 1)
    found = step(noise(one))
    assert np.linalg.norm(found) == close(BOUND, rel=1e-9)
    unit = found / found.std()
    assert abs(unit.mean()) < 0.1
    assert abs((unit**3).mean()) < 0.3
    assert (unit**4).mean() == close(3.0, abs=0.5)
    for other in (step(one.own), honest_mean(one), values(BASE)):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.1
    for name in SHAPES:  # no tensor is spared or singled out
        part = (noise(one)[name] - BASE[name]).numpy()
        assert part.std() == close(found.std(), rel=0.35)
    assert values(noise(scene(3, 4, own=98))) == close(values(noise(one)), abs=1e-12)
