"""What cannot be trained privately is refused by the name of the layer, with a cure."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.errors import ModelError, PrivacyError
from splitfed.models import ResNet18
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.guards import check_model
from splitfed.sharing import split_model
from tests.support.privacy import SmallNet, images_of

DP_SGD = ("dp-frozen", "dp-all")
NOISED = (*DP_SGD, "party-update")


class Parts(nn.Module):
    """A shared and a private half, to be filled by the test."""

    shared = ("front",)

    def __init__(self, front: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.front = front
        self.back = back


def inner(norm: nn.Module) -> nn.Module:
    """``norm`` two levels down."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.ReLU(), norm))


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3))


def with_norm(norm: nn.Module, side: str) -> nn.Module:
    return Parts(inner(norm), plain()) if side == "front" else Parts(plain(), inner(norm))


def refusal(model: nn.Module, mode: str, **split) -> PrivacyError:
    with pytest.raises(PrivacyError) as caught:
        check_model(model, split_model(model, **split), mode)
    assert caught.value.exit_code == 2
    assert caught.value.cure
    return caught.value


BATCH_NORMS = {
    "1d": lambda: nn.BatchNorm1d(4, track_running_stats=False),
    "2d": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "3d": lambda: nn.BatchNorm3d(4, track_running_stats=False),
    "sync": lambda: nn.SyncBatchNorm(4, track_running_stats=False),
    "without scale and shift": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
}


@pytest.mark.parametrize("mode", DP_SGD)
@pytest.mark.parametrize("side", ["front", "back"])
@pytest.mark.parametrize("kind", BATCH_NORMS)
def test_a_batch_norm_is_refused_by_name_on_both_sides(kind: str, side: str, mode: str) -> None:
    norm = BATCH_NORMS[kind]()
    error = refusal(with_norm(norm, side), mode)
    assert f'mode = "{mode}"' in error.message
    assert f"layer {side}.1.1 is a {type(norm).__name__}" in error.message
    assert "mixes the records" in error.message
    assert 'norm = "group"' in error.cure
    assert "batch_to_group_norm" in error.cure


@pytest.mark.parametrize("mode", DP_SGD)
def test_a_private_batch_norm_with_running_statistics_is_refused_as_well(mode: str) -> None:
    assert "layer back.1.1 is a BatchNorm2d" in str(
        refusal(with_norm(nn.BatchNorm2d(4), "back"), mode)
    )


@pytest.mark.parametrize("mode", DP_SGD)
def test_a_batch_norm_of_the_users_own_class_is_refused(mode: str) -> None:
    class Mine(nn.BatchNorm2d):
        pass

    assert "is a Mine" in refusal(with_norm(Mine(4), "back"), mode).message


@pytest.mark.parametrize("mode", DP_SGD)
def test_a_model_that_is_nothing_but_a_batch_norm_is_refused(mode: str) -> None:
    model = nn.BatchNorm1d(3, track_running_stats=False)
    assert "the model" in refusal(model, mode, shared="*").message


@pytest.mark.parametrize("mode", DP_SGD)
@pytest.mark.parametrize("kind", [nn.InstanceNorm1d, nn.InstanceNorm2d])
def test_an_instance_norm_with_running_statistics_is_refused(kind, mode: str) -> None:
    error = refusal(with_norm(kind(4, track_running_stats=True), "back"), mode)
    assert "layer back.1.1 keeps running statistics" in error.message
    assert "track_running_stats=False" in error.cure


PASSING = {
    "group norm": lambda: nn.GroupNorm(2, 4),
    "instance norm": lambda: nn.InstanceNorm2d(4),
    "layer norm": lambda: nn.LayerNorm([4, 4, 4]),
}


@pytest.mark.parametrize("mode", NOISED)
@pytest.mark.parametrize("side", ["front", "back"])
@pytest.mark.parametrize("kind", PASSING)
def test_a_norm_that_looks_at_one_record_passes(kind: str, side: str, mode: str) -> None:
    model = with_norm(PASSING[kind](), side)
    check_model(model, split_model(model), mode)


@pytest.mark.parametrize("mode", NOISED)
def test_shared_running_statistics_are_refused_in_every_mode(mode: str) -> None:
    error = refusal(with_norm(nn.BatchNorm2d(4), "front"), mode)
    named = "shared tensor front.1.1.num_batches_tracked is a buffer"  # where a layer may mix
    if mode != "party-update":
        named = "layer front.1.1 is a BatchNorm2d"  # the better cure comes first
    assert named in error.message
    assert "GroupNorm" in error.cure


@pytest.mark.parametrize("mode", NOISED)
@pytest.mark.parametrize(
    "buffer", [torch.zeros(3), torch.zeros((), dtype=torch.int64)], ids=["values", "counter"]
)
def test_any_shared_buffer_is_refused_by_name(buffer: torch.Tensor, mode: str) -> None:
    model = Parts(plain(), plain())
    model.front.register_buffer("seen", buffer)
    error = refusal(model, mode)
    assert "shared tensor front.seen is a buffer" in error.message
    assert "make it private" in error.cure


@pytest.mark.parametrize("mode", NOISED)
def test_a_private_buffer_passes(mode: str) -> None:
    model = Parts(plain(), plain())
    model.back.register_buffer("scale", torch.ones(3))
    check_model(model, split_model(model), mode)


def test_a_party_update_may_come_from_a_model_with_a_private_batch_norm() -> None:
    """The whole update is clipped and noised, whatever happened inside."""
    model = with_norm(nn.BatchNorm2d(4), "back")
    check_model(model, split_model(model), "party-update")


@pytest.mark.parametrize("mode", DP_SGD)
def test_shared_parameters_that_are_all_frozen_are_refused(mode: str) -> None:
    model = Parts(plain(), plain())
    model.front.requires_grad_(False)
    error = refusal(model, mode)
    assert "no shared parameter is left to train" in error.message
    assert "requires_grad" in error.cure


@pytest.mark.parametrize("mode", DP_SGD)
def test_one_shared_parameter_left_to_train_is_enough(mode: str) -> None:
    model = Parts(plain(), plain())
    model.front.requires_grad_(False)
    model.front[0].bias.requires_grad_(True)
    check_model(model, split_model(model), mode)


@pytest.mark.parametrize("mode", DP_SGD)
def test_a_shared_parameter_that_is_tied_under_two_names_counts_as_one_to_train(mode: str) -> None:
    """The name on the wire is the first by alphabet, torch's the first that was registered."""
    tied = nn.Module()
    tied.register_parameter("second", nn.Parameter(torch.ones(3)))
    tied.register_parameter("first", tied.second)
    model = Parts(tied, plain())
    check_model(model, split_model(model), mode)


@pytest.mark.parametrize("mode", DP_SGD)
def test_a_residual_network_with_batch_norm_is_refused_and_with_group_norm_passes(
    mode: str,
) -> None:
    batch = ResNet18(2, norm="batch")
    assert "backbone." in refusal(batch, mode).message
    group = ResNet18(2, norm="group")
    check_model(group, split_model(group), mode)


def test_a_wrapped_model_is_refused_by_the_name_of_the_layer_inside() -> None:
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    model = Wrapper(with_norm(nn.BatchNorm2d(4), "back"))
    split = split_model(model)
    with pytest.raises(PrivacyError, match="back.1.1"):
        check_model(model, split, "dp-all")


# --- models that cannot be differentiated record by record ---------------------------------------


class WritesABuffer(SmallNet):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3, 4, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        self.seen.add_(x[0].detach())
        return self.classifier(torch.tanh(x).flatten(1))


class RunningStatistics(SmallNet):
    """A BatchNorm that goes on counting in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.batch_norm(
            self.conv(x), self.norm.running_mean, self.norm.running_var, training=True
        )
        return self.classifier(torch.tanh(x).flatten(1))


class DrawsNumbers(SmallNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.classifier((x + 0.1 * torch.randn_like(x)).flatten(1))


class DropsAlways(SmallNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(functional.dropout(self.conv(x), 0.5, training=True).flatten(1))


class Branches(SmallNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        if x.sum() > 0:
            x = -x
        return self.classifier(x.flatten(1))


class Looks(SmallNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier((self.conv(x) * x.mean().item()).flatten(1))


UNFIT = (WritesABuffer, RunningStatistics, DrawsNumbers, DropsAlways, Branches, Looks)


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("count", [1, 3])
def test_a_model_that_cannot_be_differentiated_record_by_record_is_refused_by_name(
    kind, count: int
) -> None:
    torch.manual_seed(1)
    model = kind()
    with pytest.raises(ModelError) as caught:
        UnitGradients(model, dict(model.named_parameters()), functional.cross_entropy)(
            *images_of(count)
        )
    assert caught.value.message.startswith(f"{kind.__name__}: gradients of single records")
    assert "in forward()" in caught.value.cure
