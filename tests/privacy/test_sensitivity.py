"""T1: how far one record moves what is noised, in units of the clipping norm.

The proof of a mode conditions on the noised iterates. So exactly the parameters that the mode
adds noise to are set to the same values in both worlds before every step; everything else
evolves freely. Shipped modes must stay within C (2S for whole updates); constructions that
others ship must be seen to break it, or the test could not see anything.
"""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.optimizer import clip_factors, weighted_sum
from splitfed.privacy.update import clipped_update
from splitfed.sharing import shared_tensors, split_model
from splitfed.tensors import Tensors, distance
from tests.support.privacy import (
    CLASSES,
    SIZE,
    Watched,
    image_set,
    images_of,
    largest_movement,
    private_trainer,
    small_net,
    watch,
    with_record,
)

STEPS = 6
OTHERS = 24
ROUNDING = 1.001
MODES = ("dp-frozen", "dp-all")


def ordinary() -> tuple[torch.Tensor, int]:
    return images_of(1, seed=11)[0][0], 0


def mislabelled() -> tuple[torch.Tensor, int]:
    return images_of(3, seed=11)[0][2], 0


def outlier() -> tuple[torch.Tensor, int]:
    return ordinary()[0] * 255, 1


def not_a_number() -> tuple[torch.Tensor, int]:
    image = ordinary()[0].clone()
    image[0, 2, 2] = float("nan")
    return image, 1


def enormous() -> tuple[torch.Tensor, int]:
    image = ordinary()[0].clone()
    image[0, 2, 2] = 1e30
    return image, 1


def decides_the_head() -> tuple[torch.Tensor, int]:
    return torch.full((1, *SIZE), 40.0), 2


CANARIES = (ordinary, mislabelled, outlier, not_a_number, enormous, decides_the_head)


def told(what: str, s: float) -> float:
    """Print a measured figure: ``pytest -rP`` shows them all."""
    print(f"T1 {what}: s = {s:.3f}")
    return s


def noised(trainer) -> Tensors:
    """Exactly what the mode adds noise to: all that this trainer trains."""
    return trainer.tensors()


def worlds(mode: str, canary, **changes) -> list[Watched]:
    data = images_of(OTHERS)
    both = (data, with_record(data, *canary()))
    return [
        watch(private_trainer(image_set(d), mode, records=OTHERS + 1, lr=2.0, **changes))
        for d in both
    ]


@pytest.mark.parametrize("canary", CANARIES)
@pytest.mark.parametrize("mode", MODES)
def test_one_record_moves_the_sum_by_no_more_than_the_clipping_norm(mode, canary) -> None:
    s = told(f"{mode}, {canary.__name__}", largest_movement(worlds(mode, canary), noised, STEPS))
    assert s <= ROUNDING
    if canary not in (not_a_number, enormous):
        assert s > 0.05  # the record is seen at all


def test_exactly_what_the_mode_names_is_trained_and_noised() -> None:
    """The measure above holds what is trained: a head that were trained on would escape it."""
    frozen, everything = (watch(private_trainer(image_set(images_of(9)), mode)) for mode in MODES)
    head = frozen.trainer.model.classifier.weight.detach().clone()
    frozen.trainer.train_round(1)
    assert set(frozen.trainer.tensors()) == {"conv.weight", "conv.bias"}
    assert torch.equal(frozen.trainer.model.classifier.weight, head)
    assert set(everything.trainer.tensors()) == {
        "conv.weight", "conv.bias", "classifier.weight", "classifier.bias"
    }  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_the_bound_scales_with_the_clipping_norm(mode) -> None:
    s = largest_movement(worlds(mode, mislabelled, max_grad_norm=0.01), noised, STEPS)
    assert 0.9 * 0.01 <= s <= ROUNDING * 0.01


def test_one_patient_with_many_images_moves_the_sum_by_no_more_than_the_clipping_norm() -> None:
    data = images_of(OTHERS)
    groups = tuple(str(i // 2) for i in range(OTHERS))
    image, label = mislabelled()
    more = data
    for scale in (1.0, 30.0, -7.0):
        more = with_record(more, image * scale, label)
    sets = (
        image_set(data, groups=groups),
        image_set(more, groups=(*groups, "new", "new", "new")),
    )
    found = [watch(private_trainer(d, "dp-frozen", unit="patient", records=13)) for d in sets]
    s = largest_movement(found, noised, STEPS)
    assert 0.05 < s <= ROUNDING


def test_a_record_under_record_privacy_that_stands_three_times_moves_it_further() -> None:
    """Why `unit = "patient"` exists: the same three images as records of their own."""
    data = images_of(OTHERS)
    more = data
    for _ in range(3):
        more = with_record(more, *decides_the_head())
    found = [watch(private_trainer(image_set(d), records=27)) for d in (data, more)]
    assert told("three records of a patient", largest_movement(found, noised, STEPS)) > 1.5


@pytest.mark.parametrize("canary", CANARIES)
def test_replacing_the_whole_party_moves_its_update_by_no_more_than_twice_the_bound(
    canary,
) -> None:
    base = shared_tensors(small_net(), split_model(small_net()))
    updates = []
    for data in (images_of(OTHERS), with_record(images_of(5, seed=99), *canary())):
        model = small_net()
        optimizer = torch.optim.SGD(model.parameters(), lr=3.0, momentum=0.9)
        for _ in range(STEPS):  # anything goes: plain training without clipping or noise
            optimizer.zero_grad()
            functional.cross_entropy(model(data[0]), data[1]).backward()
            optimizer.step()
        now = shared_tensors(model, split_model(model))
        updates.append(clipped_update(now, base, 0.5))
    s = told(f"party-update, {canary.__name__}", distance(*updates) / 0.5)
    assert s <= 2 * ROUNDING


def test_the_update_bound_is_reached_by_opposite_updates() -> None:
    base = {"w": torch.zeros(4)}
    one, other = ({"w": torch.full((4,), sign * 9.0)} for sign in (1, -1))
    s = distance(clipped_update(one, base, 0.5), clipped_update(other, base, 0.5)) / 0.5
    assert s == pytest.approx(2.0, abs=1e-6)


# --- what others ship: the same measure must see it break ------------------------------


class Naive:
    """Noise on the shared layers only, and a private head trained without noise.

    Args:
        data: that the shared layers see.
        head_data: that the head is trained on; None: the same.
    """

    clip = 0.01  # every gradient is longer: each record weighs as much as it may

    def __init__(self, data, head_data=None, lr: float = 2.0) -> None:
        self.model = small_net()
        self.split = split_model(self.model)
        self.data = data
        self.head_data = head_data or data
        self.head = torch.optim.SGD(self.model.classifier.parameters(), lr=lr)
        self.sums: list[Tensors] = []

    @property
    def trainer(self) -> Naive:
        return self

    def tensors(self) -> Tensors:
        """What is noised here: the shared layers alone."""
        return shared_tensors(self.model, self.split)

    def train_round(self, round: int) -> None:
        for _ in range(3):
            self.head.zero_grad()
            functional.cross_entropy(self.model(self.head_data[0]), self.head_data[1]).backward()
            self.head.step()
        # The shipped class refuses a head that moves; this construction makes a new one.
        conv = {f"conv.{n}": p for n, p in self.model.conv.named_parameters()}
        found, _ = UnitGradients(self.model, conv, functional.cross_entropy)(*self.data)
        samples = list(found.values())
        factors = clip_factors(samples, self.clip) / self.clip
        self.sums.append({n: weighted_sum(factors, g).to(torch.float64) for n, g in found.items()})


def aligned(count: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """Much the same image of one class: what turns one record's gradient turns all of them."""
    draw = torch.Generator().manual_seed(1)
    spread = 0.05 * torch.randn(count, 1, *SIZE, generator=draw)
    return spread + 0.5, torch.zeros(count, dtype=torch.int64)


def test_noise_on_shared_layers_beside_a_trained_head_is_seen_to_break_the_bound() -> None:
    data = aligned()
    found = [Naive(d) for d in (data, with_record(data, *decides_the_head()))]
    assert told("naive (refused)", largest_movement(found, noised, STEPS)) > 1.5


@pytest.mark.parametrize("mode", MODES)
def test_the_same_records_move_the_sum_of_a_shipped_mode_by_no_more_than_it_may(mode) -> None:
    data = aligned()
    found = [
        watch(private_trainer(image_set(d), mode, records=101, lr=2.0, max_grad_norm=0.01))
        for d in (data, with_record(data, *decides_the_head()))
    ]
    s = largest_movement(found, noised, STEPS) / 0.01
    assert told(f"{mode}, the naive construction's worst case", s) <= ROUNDING


def test_a_head_fitted_on_a_half_of_its_own_is_seen_to_break_the_bound() -> None:
    """The canary lies in the head's half; the shared layers never see it."""
    shared_half, head_half = images_of(OTHERS), images_of(OTHERS, seed=5)
    found = [
        Naive(shared_half, half)
        for half in (head_half, with_record(head_half, *decides_the_head()))
    ]
    assert told("head on a split (refused)", largest_movement(found, noised, STEPS)) > 1.5


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_in_training_mode_is_seen_to_break_the_bound(affine) -> None:
    class Normed(nn.Module):
        shared = ("conv",)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 3)
            self.norm = nn.BatchNorm2d(3, affine=affine, track_running_stats=False)
            self.classifier = nn.Linear(48, len(CLASSES))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.classifier(torch.tanh(self.norm(self.conv(images))).flatten(1))

    torch.manual_seed(1)
    model = Normed().train()
    data = images_of(OTHERS)
    sums = []
    for images, labels in (data, with_record(data, *decides_the_head())):
        samples = []
        # What per-sample hooks see: the batch's statistics are in every record's gradient.
        losses = functional.cross_entropy(model(images), labels, reduction="none")
        for loss in losses:
            samples.append(torch.autograd.grad(loss, model.conv.weight, retain_graph=True)[0])
        stacked = torch.stack(samples)
        factors = clip_factors([stacked], 1.0)
        sums.append({"w": weighted_sum(factors, stacked).to(torch.float64)})
    assert told(f"BatchNorm, affine={affine} (refused)", distance(*sums)) > 1.5


def test_the_measure_does_not_depend_on_the_starting_point() -> None:
    """Forcing values means the same values in both worlds, whatever they are."""
    found = worlds("dp-frozen", mislabelled)
    start = deepcopy(found[0].trainer.tensors())
    far = {name: value + 5.0 for name, value in start.items()}
    assert largest_movement(found, lambda trainer: far, 2) <= ROUNDING
