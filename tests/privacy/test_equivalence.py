"""T5: the same clipped sums as other implementations, the same ε as another accountant."""

from __future__ import annotations

import pytest
import torch
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, pld
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn
from torch.nn import functional

from splitfed.models import ThreeLayerCNN
from splitfed.privacy import Spend, epsilon, epsilon_rdp, noise_for
from splitfed.privacy.frozen import freeze_private
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.optimizer import clip_factors, weighted_sum
from splitfed.sharing import canonical_name, split_model
from splitfed.tensors import Tensors

RECORDS = 12
# The first layer's inputs need no gradient, which torch remarks on under opacus' hooks.
pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning")


def model_of(frozen: bool, activation: str = "tanh") -> nn.Module:
    """In float64: what differs between implementations is then not their rounding."""
    torch.manual_seed(3)
    model = ThreeLayerCNN(widths=(3, 4, 5), classes=4, size=(12, 12), activation=activation)
    if frozen:
        freeze_private(model, split_model(model), seed=7)
    return model.double().train()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Records whose gradients are longer and shorter than the bounds below."""
    draw = torch.Generator().manual_seed(4)
    images = torch.randn(RECORDS, 1, 12, 12, generator=draw, dtype=torch.float64)
    scale = torch.logspace(-2, 1, RECORDS, dtype=torch.float64)
    return images * scale[:, None, None, None], torch.arange(RECORDS) % 4


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def ours(model: nn.Module, bound: float) -> Tensors:
    found, _ = UnitGradients(model, trained(model), functional.cross_entropy)(*batch())
    factors = clip_factors(list(found.values()), bound)
    return {name: weighted_sum(factors, part) for name, part in found.items()}


def by_hand(model: nn.Module, bound: float) -> Tensors:
    """One backward pass for each record, and the formula of Abadi et al. 2016."""
    images, labels = batch()
    parameters = trained(model)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(RECORDS):
        loss = functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
        parts = torch.autograd.grad(loss, parameters.values())
        norm = torch.cat([part.flatten() for part in parts]).norm()
        for name, part in zip(parameters, parts, strict=True):
            total[name] += part / max(1.0, float(norm) / bound)
    return total


def summed(model: nn.Module) -> Tensors:
    return {
        canonical_name(name): p.summed_grad.detach()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def opacus_hooks(model: nn.Module, bound: float) -> Tensors:
    images, labels = batch()
    wrapped = GradSampleModule(model, loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(trained(wrapped).values(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=RECORDS,
    )
    functional.cross_entropy(wrapped(images), labels, reduction="sum").backward()
    optimizer.clip_and_accumulate()
    return summed(wrapped)


def ghost_clipping(model: nn.Module, bound: float) -> Tensors:
    images, labels = batch()
    wrapped = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=bound, use_ghost_clipping=True, loss_reduction="sum"
    )
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(trained(wrapped).values(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=bound,
        expected_batch_size=RECORDS,
        loss_reduction="sum",
    )
    criterion = DPLossFastGradientClipping(
        wrapped, optimizer, nn.CrossEntropyLoss(reduction="sum"), loss_reduction="sum"
    )
    criterion(wrapped(images), labels).backward()
    optimizer.accumulate()
    return summed(wrapped)


OTHERS = (by_hand, opacus_hooks, ghost_clipping)


@pytest.mark.parametrize("frozen", [False, True], ids=["all layers", "private layers frozen"])
@pytest.mark.parametrize("bound", [0.1, 1.2, 1e6])
@pytest.mark.parametrize("other", OTHERS)
def test_clipped_sums_equal_those_of_another_implementation(other, bound, frozen) -> None:
    mine, theirs = ours(model_of(frozen), bound), other(model_of(frozen), bound)
    assert mine.keys() == theirs.keys()
    assert len(mine) == (4 if frozen else 8)
    scale = min(bound, 10.0) * RECORDS
    for name, total in mine.items():
        # Opacus and we add 1e-6 to the norm, the formula does not.
        assert float((total - theirs[name]).abs().max()) <= 1e-6 * scale, name


def test_the_records_are_longer_and_shorter_than_the_bounds() -> None:
    """Or the equality above would say nothing about clipping."""
    model = model_of(frozen=False)
    found, _ = UnitGradients(model, trained(model), functional.cross_entropy)(*batch())
    samples = list(found.values())
    assert [float(clip_factors(samples, bound).mean()) < 1 for bound in (0.1, 1.2, 1e6)] == [
        True, True, False,
    ]  # fmt: skip
    middle = clip_factors(samples, 1.2)
    assert float(middle.max()) == 1.0


@pytest.mark.parametrize("other", OTHERS)
def test_sums_in_float32_equal_those_in_float64(other) -> None:
    model = model_of(frozen=True).float()
    images, labels = batch()
    found, _ = UnitGradients(model, trained(model), functional.cross_entropy)(
        images.float(), labels
    )
    factors = clip_factors(list(found.values()), 1.0)
    theirs = other(model_of(frozen=True), 1.0)
    for name, part in found.items():
        difference = weighted_sum(factors, part).double() - theirs[name]
        assert float(difference.abs().max()) <= 1e-6 * RECORDS


# --- the accountant --------------------------------------------------------------------------

SETTINGS = {
    "no sampling, one release a round": (1.0, 40.0, 60, 1e-5),
    "no sampling, few": (1.0, 8.0, 4, 1e-5),
    "no sampling, little noise": (1.0, 2.0, 10, 1e-5),
    "half": (0.5, 4.0, 30, 1e-5),
    "the demo": (0.25, 1.573, 80, 1e-5),
    "a tenth": (0.1, 1.0, 100, 1e-5),
    "a hundredth": (0.01, 0.8, 1000, 1e-5),
    "many steps, small delta": (0.02, 1.1, 2000, 1e-6),
}


def spend_of(setting: str) -> tuple[Spend, float]:
    rate, sigma, steps, delta = SETTINGS[setting]
    return Spend(sample_rate=rate, noise_multiplier=sigma, steps=steps), delta


@pytest.mark.parametrize("setting", SETTINGS)
def test_epsilon_equals_that_of_another_accountant(setting: str) -> None:
    """dp_accounting's privacy loss distributions, which share no code with Opacus."""
    spend, delta = spend_of(setting)
    accountant = pld.PLDAccountant()  # neighbours: one record added or removed
    event = GaussianDpEvent(spend.noise_multiplier)
    if spend.sample_rate < 1:
        event = PoissonSampledDpEvent(spend.sample_rate, event)
    accountant.compose(event, spend.steps)
    wanted = accountant.get_epsilon(delta)
    assert 0.5 < wanted < 8.0
    assert wanted - 1e-4 <= epsilon([spend], delta) <= wanted + 0.02


@pytest.mark.parametrize("setting", SETTINGS)
def test_epsilon_by_renyi_is_no_tighter(setting: str) -> None:
    spend, delta = spend_of(setting)
    assert epsilon([spend], delta) <= epsilon_rdp([spend], delta)


@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8.0, 0.25, 80), (1.0, 0.1, 50), (2.0, 1.0, 10)]
)
def test_the_noise_for_a_target_keeps_it_and_less_would_not(target, rate, steps) -> None:
    def cost(sigma: float) -> float:
        spend = Spend(sample_rate=rate, noise_multiplier=sigma, steps=steps)
        return epsilon([spend], 1e-5)

    sigma = noise_for(target, 1e-5, sample_rate=rate, steps=steps)
    assert cost(sigma) <= target < cost(sigma - 2e-4)
    assert sigma == round(sigma, 4)
