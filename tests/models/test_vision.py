"""torchvision's networks: what they declare as shared, and how their norms are converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from splitfed import models
from splitfed.errors import ModelError
from splitfed.models import batch_to_group_norm, group_count
from splitfed.random import forked
from splitfed.sharing import matches, split_model

ADAPTERS = {
    "ResNet18": "backbone.layer3",
    "ResNet34": "backbone.layer3",
    "ResNet50": "backbone.layer3",
    "MobileNetV3Small": "backbone.features.4",
    "MobileNetV3Large": "backbone.features.7",
    "EfficientNetB0": "backbone.features.4",
    "ViTB16": "backbone.encoder.layers.encoder_layer_6",
}
"""Each adapter with the first module that is private."""

WITH_BATCH_NORM = [name for name in ADAPTERS if name != "ViTB16"]


def on_meta(name: str, **arguments: Any) -> nn.Module:
    """The model without values: names and shapes only, in milliseconds."""
    with torch.device("meta"):
        model: nn.Module = getattr(models, name)(**arguments)
    return model


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def side(model: nn.Module, name: str) -> bool:
    """Whether the tensor is shared by the class's own declaration."""
    return any(matches(pattern, name) for pattern in model.shared)


@pytest.mark.parametrize("name", ADAPTERS)
def test_everything_before_the_cut_is_shared_and_nothing_behind_it(name: str) -> None:
    model = on_meta(name, classes=5)
    names = [key for key, _ in model.named_parameters()]
    if name == "ViTB16":  # a parameter of the outermost module is listed first anyway
        assert names[0] == "backbone.class_token"
    first = next(i for i, key in enumerate(names) if key.startswith(f"{ADAPTERS[name]}."))
    assert [key for key in names if side(model, key)] == names[:first]
    assert 0 < first < len(names)


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_declared_pattern_matches_something(name: str) -> None:
    model = on_meta(name, classes=5)
    for pattern in model.shared:
        assert [key for key in tensors(model) if matches(pattern, key)], pattern


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_under_batch_norm_shared_buffers_exist_and_under_group_norm_none_at_all(name: str) -> None:
    batch = on_meta(name, classes=2)
    shared_buffers = [key for key, _ in batch.named_buffers() if side(batch, key)]
    assert any(key.endswith("running_mean") for key in shared_buffers)
    grouped = on_meta(name, classes=2, norm="group")
    assert list(grouped.named_buffers()) == []
    assert not [m for m in grouped.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_conversion_keeps_parameter_names_and_shapes(name: str) -> None:
    batch, group = on_meta(name, classes=2), on_meta(name, classes=2, norm="group")
    assert {k: p.shape for k, p in batch.named_parameters()} == {
        k: p.shape for k, p in group.named_parameters()
    }
    norms = [k for k, m in batch.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert [f"backbone.{done.name}" for done in group.conversions] == norms
    assert batch.conversions == ()
    for done in group.conversions:
        assert done.channels % done.groups == 0
        assert done.channels // done.groups >= 8 or done.groups == 1


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_and_classes_reach_the_network(name: str, channels: int) -> None:
    model = on_meta(name, classes=7, channels=channels)
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    assert first.in_channels == first.weight.shape[1] == channels
    assert last.out_features == 7


def test_split_of_a_real_network_gives_every_tensor_one_side() -> None:
    model = models.ResNet18(classes=2, channels=1)
    split = split_model(model)
    assert split.shared_names | split.private_names == set(tensors(model))
    assert "backbone.bn1.running_mean" in split.shared_names
    assert "backbone.layer3.0.conv1.weight" in split.private_names


def test_one_channel_is_three_times_the_same_grey() -> None:
    with forked(0, "test"):
        grey = models.MobileNetV3Small(classes=3, channels=1).eval()
    with forked(0, "test"):
        colour = models.MobileNetV3Small(classes=3, channels=3).eval()
    x = torch.randn(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(grey(x), colour(x.expand(2, 3, 32, 32)), atol=1e-6)


def test_private_parts_of_another_architecture_leave_the_shared_shapes_alone() -> None:
    small, large = on_meta("ResNet18", classes=2), on_meta("ResNet18", classes=9)
    shapes = [
        {key: t.shape for key, t in tensors(model).items() if side(model, key)}
        for model in (small, large)
    ]
    assert shapes[0] == shapes[1]


def test_under_group_norm_a_record_does_not_feel_its_neighbours() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, 1, 32, 32, generator=draw)
    with forked(0, "test"):
        models_by_norm = {
            norm: models.ResNet18(classes=3, channels=1, norm=norm).train()
            for norm in ("group", "batch")
        }
    alone_and_together = {
        norm: (model(x[:2])[0].detach(), model(x)[0].detach())
        for norm, model in models_by_norm.items()
    }
    assert torch.allclose(*alone_and_together["group"], atol=1e-5)
    assert not torch.allclose(*alone_and_together["batch"], atol=1e-2)


def test_group_norm_networks_have_gradients_per_record() -> None:
    from torch.func import functional_call, grad, vmap

    model = models.MobileNetV3Small(classes=3, channels=1, norm="group").eval()
    parameters = {name: value.detach() for name, value in model.named_parameters()}
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def loss(values: dict[str, torch.Tensor], record: torch.Tensor) -> torch.Tensor:
        return functional_call(model, values, (record[None],)).square().sum()

    per_record = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    alone = grad(loss)(parameters, x[1])
    for name in parameters:
        assert torch.allclose(per_record[name][1], alone[name], atol=1e-3, rtol=1e-3), name


def test_vit_runs_on_the_size_it_was_built_for() -> None:
    model = on_meta("ViTB16", classes=4, channels=1, size=48)
    assert model(torch.zeros(2, 1, 48, 48, device="meta")).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("ResNet18", {"classes": 2, "norm": "layer"}, "norm = 'layer'"),
        ("ResNet18", {"classes": 0}, "classes = 0"),
        ("EfficientNetB0", {"classes": 2, "channels": 2}, "channels = 2"),
        ("ViTB16", {"classes": 2, "size": 100}, "size = 100"),
        ("ViTB16", {"classes": 2, "size": 0}, "size = 0"),
    ],
)
def test_impossible_arguments_are_named(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        getattr(models, name)(**arguments)


def test_group_count_divides_and_leaves_eight_channels_where_it_can() -> None:
    for channels in range(1, 1300):
        groups = group_count(channels)
        assert channels % groups == 0
        assert groups <= 32
        assert groups == 1 or channels // groups >= 8
    assert [group_count(n) for n in (7, 8, 16, 64, 256, 1280)] == [1, 1, 2, 8, 32, 32]


class Custom(nn.Module):
    """A user's own model with norms of several kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(16, eps=0.25)
        self.blocks = nn.Sequential(nn.Conv2d(1, 24, 3), nn.BatchNorm2d(24, affine=False))


def test_conversion_reaches_any_model_and_takes_over_scale_shift_and_epsilon() -> None:
    model = Custom().eval()
    nn.init.constant_(model.norm.weight, 3.0)
    nn.init.constant_(model.norm.bias, -1.0)
    state = torch.get_rng_state()
    done = batch_to_group_norm(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert [str(item) for item in done] == [
        "norm: BatchNorm(16) -> GroupNorm(2 groups)",
        "blocks.1: BatchNorm(24) -> GroupNorm(3 groups)",
    ]
    norm, plain = model.norm, model.blocks[1]
    assert isinstance(norm, nn.GroupNorm)
    assert isinstance(plain, nn.GroupNorm)
    assert norm.eps == 0.25
    assert norm.weight.tolist() == [3.0] * 16
    assert norm.bias.tolist() == [-1.0] * 16
    assert not plain.affine
    assert not norm.training
    assert batch_to_group_norm(model) == ()


def test_a_norm_shared_by_two_places_stays_one_norm() -> None:
    norm = nn.BatchNorm2d(8)
    model = nn.Sequential(norm, nn.ReLU(), norm)
    batch_to_group_norm(model)
    assert isinstance(model[0], nn.GroupNorm)
    assert model[0] is model[2]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: nn.BatchNorm2d(8), "single BatchNorm"),
        (lambda: nn.Sequential(nn.LazyBatchNorm2d()), "0 is lazily initialised"),
    ],
)
def test_what_cannot_be_converted_is_refused(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        batch_to_group_norm(make())
