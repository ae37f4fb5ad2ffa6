"""Per-record gradients: no record sees another, and a bad one contributes exactly nothing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.models import ResNet18
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.optimizer import clip_factors, weighted_sum
from tests.support.privacy import (
    CLASSES,
    image_set,
    images_of,
    private_trainer,
    small_net,
    watch,
    with_record,
)


class ByBatch(nn.Module):
    """Mixes the records of a batch by hand, in a way that no list of layers would find."""

    shared = ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.classifier = nn.Linear(48, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        x = (x - x.mean(0)) / (x.std(0, unbiased=False) + 0.1) + x
        return self.classifier(torch.tanh(x).flatten(1))


class ByBatchNorm(ByBatch):
    """The same by a real BatchNorm, as it would be if no guard had refused it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.tanh(self.norm(self.conv(x))).flatten(1))


class Dropping(ByBatch):
    """With dropout, whose mask depends on a record's place in the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(self.conv(x), 0.5, training=self.training)
        return self.classifier(nn.Dropout(0.5).train(self.training)(x).flatten(1))


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    return kind()


def gradients_of(model: nn.Module) -> UnitGradients:
    return UnitGradients(model, dict(model.named_parameters()), functional.cross_entropy)


def rows(found: dict[str, torch.Tensor]) -> torch.Tensor:
    """[N, all parameters]."""
    return torch.cat([part.flatten(1) for part in found.values()], dim=1)


# --- no record sees another --------------------------------------------------------------


@pytest.mark.parametrize("kind", [ByBatch, ByBatchNorm, Dropping])
def test_the_gradient_of_a_record_does_not_depend_on_its_neighbours(kind) -> None:
    compute = gradients_of(seeded(kind))
    images, labels = images_of(8)
    whole = rows(compute(images, labels)[0])
    others = images.clone()
    others[1:] *= -50
    among_others = rows(compute(others, labels)[0])
    alone = rows(compute(images[:1], labels[:1])[0])
    torch.testing.assert_close(among_others[0], whole[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(alone[0], whole[0], rtol=1e-5, atol=1e-6)


def test_gradients_and_losses_are_those_of_each_record_by_itself() -> None:
    model = small_net()
    images, labels = images_of(5)
    found, losses = gradients_of(model)(images, labels)
    for i in range(5):
        model.zero_grad()
        loss = functional.cross_entropy(model(images[i : i + 1]), labels[i : i + 1])
        loss.backward()
        torch.testing.assert_close(losses[i], loss.detach())
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad)


def test_gradients_are_read_at_the_parameters_values_of_each_call() -> None:
    model = small_net()
    compute = gradients_of(model)
    before = rows(compute(*images_of(2))[0])
    with torch.no_grad():
        model.conv.weight.add_(1.0)
    assert not torch.allclose(before, rows(compute(*images_of(2))[0]))


def test_only_what_is_trained_has_a_gradient_and_nothing_is_left_on_the_model() -> None:
    model = small_net()
    compute = UnitGradients(model, {"conv.bias": model.conv.bias}, functional.cross_entropy)
    found, losses = compute(*images_of(4))
    assert {name: tuple(part.shape) for name, part in found.items()} == {"conv.bias": (4, 3)}
    assert not losses.requires_grad
    assert not found["conv.bias"].requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_a_record_leaves_on_the_module_does_not_reach_the_next() -> None:
    """An assignment in forward() to a registered buffer holds for that record alone."""

    class Remembers(ByBatch):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(3, 4, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            answer = self.classifier(torch.tanh(x + self.last).flatten(1))
            self.last = x[0].detach()
            return answer

    model = seeded(Remembers)
    compute = gradients_of(model)
    images, labels = images_of(6)
    whole = rows(compute(images, labels)[0])
    assert torch.equal(model.last, torch.zeros(3, 4, 4))
    torch.testing.assert_close(rows(compute(images, labels)[0]), whole)


def test_a_residual_network_with_group_norm_is_differentiated_despite_its_sums_in_place() -> None:
    torch.manual_seed(1)
    model = ResNet18(2, channels=1, norm="group")
    images = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    trained = {n: p for n, p in model.named_parameters() if n == "backbone.conv1.weight"}
    found, _ = UnitGradients(model, trained, functional.cross_entropy)(images, torch.tensor([0, 1]))
    for i in range(2):
        loss = functional.cross_entropy(model(images[i : i + 1]), torch.tensor([i]))
        (wanted,) = torch.autograd.grad(loss, list(trained.values()))
        (mine,) = found.values()
        torch.testing.assert_close(mine[i], wanted, rtol=1e-3, atol=1e-5)


# --- patients ------------------------------------------------------------------------------


def test_the_gradient_of_a_patient_is_the_mean_over_its_own_records() -> None:
    compute = gradients_of(small_net())
    images, labels = images_of(6)
    single = rows(compute(images, labels)[0])
    groups = torch.tensor([1, 0, 1, 1, 2, 0])
    found = rows(compute(images, labels, groups)[0])
    assert found.shape[0] == 3
    for unit in range(3):
        torch.testing.assert_close(found[unit], single[groups == unit].mean(0))


def test_patients_of_one_record_each_are_records() -> None:
    compute = gradients_of(small_net())
    images, labels = images_of(4)
    single = rows(compute(images, labels)[0])
    order = torch.tensor([2, 0, 3, 1])
    found = rows(compute(images, labels, order)[0])
    torch.testing.assert_close(found[order], single)


def test_an_image_that_is_not_a_number_takes_out_its_own_patient_only() -> None:
    compute = gradients_of(small_net())
    images, labels = images_of(6)
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    sound = compute(images, labels, groups)[0]
    images[2, 0, 3, 3] = math.nan
    found = compute(images, labels, groups)[0]
    factors = clip_factors(list(found.values()), 1.0)
    assert factors[1] == 0
    assert (factors[[0, 2]] > 0).all()
    for name, part in found.items():
        assert torch.equal(part[[0, 2]], sound[name][[0, 2]])
        summed = weighted_sum(factors, part)
        wanted = factors[0] * sound[name][0] + factors[2] * sound[name][2]
        torch.testing.assert_close(summed, wanted)


# --- chunks ----------------------------------------------------------------------------------


def sums_of(data, *, chunk: int | None = None, **settings):
    trainer = private_trainer(data, **settings)
    if chunk is not None:
        trainer._gradients.chunk = chunk
    watched = watch(trainer)
    trainer.train_round(1)
    return watched.sums[-1]


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("chunk", [1, 4, 7, 1000])
def test_the_sum_is_that_of_all_clipped_gradients_whatever_the_chunks(unit, chunk: int) -> None:
    images, labels = images_of(20)
    data = image_set((images, labels), groups=tuple(f"patient {i % 5}" for i in range(20)))
    groups = torch.arange(20) % 5 if unit == "patient" else None
    all_at_once, _ = private_trainer(data)._gradients(images, labels, groups)
    factors = clip_factors(list(all_at_once.values()), 1.0)
    found = sums_of(data, unit=unit, chunk=chunk)
    for name, part in all_at_once.items():
        wanted = weighted_sum(factors, part).double()
        assert float(wanted.abs().max()) > 0.1
        torch.testing.assert_close(found[name], wanted, rtol=0, atol=1e-5)


def test_a_chunk_of_a_large_model_is_small() -> None:
    """Gradients of one chunk take a bounded amount of memory."""

    def chunk_of(features: int) -> int:
        model = nn.Linear(features, 1024, bias=False, device="meta")
        return gradients_of(model).chunk

    assert chunk_of(4) == 64
    assert chunk_of(16 * 1024) == 8  # 64 MiB a record
    assert chunk_of(512 * 1024) == 1


# --- records that are not finite ---------------------------------------------------------------

BAD = {"nan": math.nan, "infinite": math.inf, "negative infinite": -math.inf, "huge": 1e30}


class Open(nn.Module):
    """Nothing that saturates: a huge pixel gives a huge gradient, whose norm overflows."""

    shared = ("conv",)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.classifier = nn.Linear(48, len(CLASSES))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.conv(x).flatten(1))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_a_record_that_is_not_finite_adds_exactly_nothing_to_the_sum(mode, value) -> None:
    data = images_of(9)
    image = data[0][0].clone()
    image[0, 2, 2] = BAD[value]
    clean, spoilt = (
        sums_of(image_set(d), mode=mode, records=10, model=seeded(Open))
        for d in (data, with_record(data, image, 1))
    )
    for name, total in clean.items():
        torch.testing.assert_close(spoilt[name], total, rtol=0, atol=1e-7)


@pytest.mark.parametrize("value", BAD)
def test_a_sum_of_records_that_are_not_finite_alone_is_exactly_zero(value) -> None:
    images, labels = images_of(3)
    images[:, 0, 2, 2] = BAD[value]
    for total in sums_of(image_set((images, labels)), model=seeded(Open)).values():
        assert torch.equal(total, torch.zeros_like(total))


def test_a_huge_pixel_behind_a_layer_that_saturates_counts_as_any_other_record() -> None:
    images, labels = images_of(1)
    images[0, 0, 2, 2] = 1e30
    total = sums_of(image_set((images, labels)))
    norm = math.sqrt(sum(float(part.square().sum()) for part in total.values()))
    assert 0 < norm <= 1 + 1e-6


def test_one_record_that_is_not_finite_leaves_the_round_s_loss_finite() -> None:
    images, labels = images_of(5)
    images[2] = math.nan
    trainer = private_trainer(image_set((images, labels)))
    result = trainer.train_round(1)
    assert result.loss is not None
    assert math.isfinite(result.loss)
    assert all(torch.isfinite(value).all() for value in trainer.tensors().values())


def test_factors_shorten_to_the_bound_lengthen_nothing_and_refuse_what_is_not_finite() -> None:
    one = torch.tensor([[3.0, 4.0], [0.03, 0.04], [0.0, 0.0], [math.nan, 0], [math.inf, 0]])
    two = torch.zeros(5, 1, 2)
    two[1, 0, 0] = 3e38  # its square overflows
    factors = clip_factors([one, two], 1.0)
    assert factors.tolist() == pytest.approx([0.2, 0.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize("bound", [1e-3, 1.0, 40.0])
def test_no_clipped_gradient_is_longer_than_the_bound(bound: float) -> None:
    draw = torch.Generator().manual_seed(1)
    scale = torch.logspace(-6, 12, 200)[:, None]
    samples = [torch.randn(200, 7, generator=draw) * scale, torch.randn(200, 3, generator=draw)]
    factors = clip_factors(samples, bound)
    norms = torch.cat(samples, dim=1).double().norm(dim=1) * factors.double()
    assert float(norms.max()) <= bound * (1 + 1e-6)


# --- steps ----------------------------------------------------------------------------------------


def test_a_step_on_an_empty_sample_has_a_sum_of_zero_and_is_taken() -> None:
    trainer = private_trainer(image_set(images_of(4)), sample_rate=1e-18, records=4)
    watched = watch(trainer)
    result = trainer.train_round(1)
    assert (result.steps, result.images, result.loss) == (1, 0, None)
    assert len(watched.sums) == 1
    for name, total in watched.sums[0].items():
        assert torch.equal(total, torch.zeros_like(total)), name
        assert total.shape == trainer.tensors()[name].shape


def test_an_empty_sample_moves_every_trained_parameter_by_noise() -> None:
    trainer = private_trainer(image_set(images_of(4)), sample_rate=1e-18, records=4)
    before = trainer.tensors()
    trainer.train_round(1)
    assert all((trainer.tensors()[name] != value).all() for name, value in before.items())


class Interrupted(Exception):
    """Something went wrong in the middle of a step."""


def interrupt(trainer, monkeypatch, after: int) -> None:
    """Let the ``after + 1``-th chunk of the next step raise."""
    compute, calls = trainer._gradients, []

    class Failing:
        chunk = 4

        def __call__(self, *arguments):
            calls.append(1)
            if len(calls) > after:
                raise Interrupted
            return compute(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_gradients", Failing())
        with pytest.raises(Interrupted):
            trainer.train_round(1)
    assert len(calls) == after + 1


@pytest.mark.parametrize("after", [0, 1, 2])
def test_half_a_step_that_raised_does_not_reach_the_next_sum(monkeypatch, after: int) -> None:
    data = image_set(images_of(12))
    undisturbed = sums_of(data, chunk=4)
    trainer = private_trainer(data)
    watched = watch(trainer)
    before = trainer.tensors()
    interrupt(trainer, monkeypatch, after)
    assert watched.sums == []
    for name, value in trainer.tensors().items():
        assert torch.equal(value, before[name])
    trainer._gradients.chunk = 4
    trainer.train_round(1)
    (found,) = watched.sums
    for name, total in undisturbed.items():
        assert torch.equal(found[name], total)


def test_the_sum_of_one_step_does_not_reach_the_next() -> None:
    """With the parameters held still, every step has the same sum."""
    trainer = private_trainer(image_set(images_of(12)), steps_per_round=3, lr=1e-30)
    watched = watch(trainer)
    trainer.train_round(1)
    first, second, third = watched.sums
    for name, total in first.items():
        assert torch.equal(second[name], total)
        assert torch.equal(third[name], total)
