"""Gradient inversion: it finds an image where nothing hides it, and does not under noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitfed.errors import ModelError
from splitfed.leakage.inversion import Known, invert
from splitfed.leakage.likeness import MOST, correlations, in_order, likeness
from splitfed.leakage.releases import RehearsedNoise, Release, release_of
from splitfed.privacy.keystream import Keystream
from splitfed.random import forked
from splitfed.sharing import split_model
from tests.support.leaking import NOISED, UPDATES, subject
from tests.support.privacy import SmallNet, small_net

SIZE = (1, 8, 8)


class Smooth(nn.Module):
    """Two convolutions and a head, differentiable as often as one likes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.conv2 = nn.Conv2d(6, 6, 3)
        self.classifier = nn.Linear(96, 3)

    def forward(self, images: Tensor) -> Tensor:
        seen = torch.tanh(self.conv2(torch.tanh(self.conv1(images))))
        return self.classifier(seen.flatten(1))


class Attacked(NamedTuple):
    release: Release
    true: Tensor
    known: Known


def blob(place: int) -> Tensor:
    """A picture as pictures are: smooth, bright in one spot."""
    down, across = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    spot = ((down - 2 - 3 * place) ** 2 + (across - 5 + 2 * place) ** 2) / 6
    return torch.exp(-spot)[None]


def attacked(*, noise: float = 0.0, shared: Sequence[str] = ("*",), count: int = 1) -> Attacked:
    """One plain step of :class:`Smooth` on ``count`` images, noise on the gradient in units of its
    own norm a tensor."""
    with forked(3, "smooth"):
        model = Smooth()
    draw = torch.Generator().manual_seed(4)
    true = torch.stack([blob(place) for place in range(count)])
    labels = torch.arange(count) % 3
    split = split_model(model, shared)
    parameters = {n: p for n, p in model.named_parameters() if n in split.shared_names}
    loss = functional.cross_entropy(model(true), labels)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    before = {n: p.detach().clone() for n, p in parameters.items()}
    after = {
        n: before[n] - 0.1 * (g + noise * g.norm() * torch.randn(g.shape, generator=draw))
        for (n, _), g in zip(parameters.items(), gradients, strict=True)
    }
    known = Known(
        labels=labels,
        guess=torch.full_like(true, 0.5),
        low=torch.zeros(1, 1, 1),
        high=torch.ones(1, 1, 1),
    )
    return Attacked(Release(model=model, before=before, after=after, steps=1), true, known)


def best(case: Attacked, *, iterations: int = 200) -> float:
    """PSNR of the best restart."""
    ends = invert(case.release, case.known, restarts=2, iterations=iterations, seed=1)
    return max(likeness(end[0], case.true[0]).psnr for end in ends)


@pytest.fixture(scope="module")
def clear() -> float:
    return best(attacked())


def test_an_image_is_found_in_the_update_of_one_plain_step(clear: float) -> None:
    assert clear > 25


def test_noise_hides_the_image(clear: float) -> None:
    hidden = best(attacked(noise=1.0))
    assert hidden < 14
    assert hidden < clear - 10


def test_only_what_travels_is_looked_at() -> None:
    """The tensors that stay are not in the release; with few that travel, less is found."""
    case = attacked(shared=("conv1.bias",))
    assert set(case.release.after) == {"conv1.bias"}
    assert best(case, iterations=100) < 16


def test_equal_seeds_find_equal_images_and_the_box_is_kept() -> None:
    case = attacked()
    one, two = (invert(case.release, case.known, restarts=2, iterations=5, seed=7) for _ in "ab")
    other = invert(case.release, case.known, restarts=2, iterations=5, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0], other[0])
    assert not torch.equal(one[0], one[1])
    assert all(float(end.min()) >= 0 and float(end.max()) <= 1 for end in one)


def test_several_images_behind_one_update_are_found_in_some_order() -> None:
    case = attacked(count=2)
    ends = invert(case.release, case.known, restarts=1, iterations=200, seed=1)
    made = in_order(ends[0], case.true)
    assert min(likeness(a, b).psnr for a, b in zip(made, case.true, strict=True)) > 14


def test_what_was_made_is_put_in_the_order_of_the_true_images() -> None:
    true = torch.rand(4, *SIZE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(in_order(true[[2, 0, 3, 1]], true), true)


def test_correlation_is_blind_to_contrast_and_tells_which_image_is_meant() -> None:
    true = torch.rand(5, *SIZE, generator=torch.Generator().manual_seed(1))
    found = correlations(0.4 + true[2] / 5, true)
    assert float(found[2]) == pytest.approx(1.0)
    assert int(found.argmax()) == 2
    assert float(found.sort().values[-2]) < 0.5
    assert correlations(torch.ones(SIZE), true).abs().max() == 0
    assert float(correlations(1 - true[0], true)[0]) == pytest.approx(-1.0)


def test_likeness_of_equal_images_has_a_bound_and_psnr_is_that_of_the_mean_square() -> None:
    true = torch.zeros(1, 28, 28)
    assert (likeness(true, true).psnr, likeness(true, true).ssim) == (MOST, 1.0)
    assert likeness(true + 0.1, true).psnr == pytest.approx(20.0, abs=1e-4)
    assert likeness(true[..., :8, :8] + 0.1, true[..., :8, :8]).ssim < 1  # an image that is small


class Rounded(Smooth):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


def test_a_model_that_cannot_be_differentiated_is_refused_by_name() -> None:
    case = attacked()
    model = Rounded()
    spoilt = Release(model=model, before=case.release.before, after=case.release.after, steps=1)
    with pytest.raises(ModelError, match="Rounded cannot be attacked by its gradient"):
        invert(spoilt, case.known, restarts=1, iterations=1, seed=1)


def test_a_split_in_which_nothing_is_trained_is_refused() -> None:
    model = small_net()
    model.conv.requires_grad_(False)
    before = {"conv.weight": model.conv.weight.detach()}
    release = Release(model=model, before=before, after=before, steps=1)
    assert isinstance(model, SmallNet)
    with pytest.raises(ModelError, match="no shared parameter is trained"):
        invert(release, attacked().known, restarts=1, iterations=1, seed=1)


# --- what travels, by the real trainers ------------------------------------------------------


def test_the_plain_step_is_the_gradient_of_the_agreed_initial_model(tmp_path: Path) -> None:
    one = subject(tmp_path)
    images = one.train.subset([0])
    release = release_of(one, one.split, images, "none", as_trained=False, seed=0)
    assert set(release.after) == one.split.shared_names
    batch, labels = images.batch(torch.arange(1))
    loss = functional.cross_entropy(one.module(batch), labels)
    weight = dict(one.module.named_parameters())["conv1.weight"]
    (gradient,) = torch.autograd.grad(loss, [weight])
    moved = release.before["conv1.weight"] - release.after["conv1.weight"]
    assert torch.allclose(moved, one.settings.lr * gradient, atol=1e-6)
    assert (release.steps, float(gradient.norm()) > 0) == (1, True)


def test_as_trained_takes_the_steps_of_party_toml(tmp_path: Path) -> None:
    one = subject(tmp_path)
    several = one.settings.model_copy(update={"epochs": 3, "batch_size": 2})
    object.__setattr__(one, "settings", several)
    images = one.train.subset([0, 1, 2, 3])
    assert release_of(one, one.split, images, "none", as_trained=True, seed=0).steps == 6
    assert release_of(one, one.split, images, "none", as_trained=False, seed=0).steps == 1


@pytest.mark.parametrize("privacy", [NOISED, UPDATES])
def test_noise_comes_from_the_seed_and_is_that_of_the_mechanism(
    tmp_path: Path, privacy: str
) -> None:
    one = subject(tmp_path, privacy=privacy)
    images = one.train.subset([0])
    again, same, other = (
        release_of(one, one.split, images, one.mode, as_trained=False, seed=seed)
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(again.after[n], same.after[n]) for n in again.after)
    assert not torch.equal(again.after["conv1.weight"], other.after["conv1.weight"])
    # Noise alone, far larger than the clipped update of norm 1 at most.
    std = 4.0 * (one.settings.federated.lr if one.mode == "dp-frozen" else 2.0)
    moved = torch.cat([(again.after[n] - again.before[n]).flatten() for n in again.after])
    assert float(moved.std()) == pytest.approx(std, rel=0.25)


def test_rehearsed_noise_is_normal_and_real_noise_is_not_seeded() -> None:
    drawn = RehearsedNoise(1, "a").gaussian(100_000)
    assert abs(float(drawn.mean())) < 0.02
    assert float(drawn.std()) == pytest.approx(1.0, abs=0.02)
    assert (RehearsedNoise(1, "a").gaussian(4) == RehearsedNoise(1, "a").gaussian(4)).all()
    assert (Keystream().gaussian(4) != Keystream().gaussian(4)).all()
