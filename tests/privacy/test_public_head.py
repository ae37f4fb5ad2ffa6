"""Frozen private layers and the public head: the same for everybody, and nothing of anybody's."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitfed.config import TrainingConfig
from splitfed.errors import ModelError
from splitfed.models import ResNet18, ThreeLayerCNN
from splitfed.privacy.frozen import freeze_private, public_values
from splitfed.privacy.gradients import UnitGradients
from splitfed.privacy.public_head import PublicHead
from splitfed.sharing import named_tensors, split_model
from splitfed.training.private import PrivateTrainer
from tests.support.privacy import CLASSES, SIZE, image_set, images_of, mechanism, small_net

SHAPE = (1, *SIZE)


class Deeper(nn.Module):
    """Shares ``conv`` with the small network; everything private differs from it."""

    shared = ("conv",)

    def __init__(self, seed: int = 5) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.more = nn.Conv2d(3, 7, 3)
        self.fc = nn.Linear(28, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.more(torch.relu(self.conv(x)))).flatten(1))


class Stemmed(nn.Module):
    """A private layer runs before the shared one, another behind it."""

    shared = ("conv",)

    def __init__(self, seed: int = 5) -> None:
        torch.manual_seed(seed)
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 1)
        self.conv = nn.Conv2d(2, 3, 3)
        self.fc = nn.Linear(48, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.conv(self.stem(x)).flatten(1))


def headed(model: nn.Module, *, outputs: int = 3, seed: int = 7, size=SHAPE) -> PublicHead:
    return PublicHead(model, split_model(model), size, outputs, seed)


def with_conv_of(model: nn.Module, other: nn.Module) -> nn.Module:
    model.conv.load_state_dict(other.conv.state_dict())
    return model


# --- the public head -----------------------------------------------------------------------


@pytest.mark.parametrize("made", [small_net, Deeper, Stemmed])
def test_the_shared_tensors_are_those_of_the_model(made) -> None:
    model = made()
    split = split_model(model)
    head = headed(model)
    assert split_model(head, shared=sorted(split.shared_names)).shared == split.shared
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trained == {"module.conv.weight", "module.conv.bias"}


def test_a_trainer_trains_the_shared_layers_against_the_head_and_nothing_else() -> None:
    head = headed(small_net())
    split = split_model(head, shared=["conv"])
    trainer = PrivateTrainer(
        head, image_set(images_of(6)), TrainingConfig(), mechanism=mechanism(), split=split,
        classes=CLASSES, records=6,
    )  # fmt: skip
    before = {name: value.clone() for name, value in named_tensors(head).items()}
    trainer.train_round(1)
    moved = {n for n, t in named_tensors(head).items() if not torch.equal(t, before[n])}
    assert moved == trainer.shared().keys() == {"conv.weight", "conv.bias"}


def test_equal_shared_layers_give_equal_outputs_at_parties_whose_private_parts_differ() -> None:
    one = small_net()
    other = with_conv_of(Deeper(), one)
    images, _ = images_of(5)
    with torch.no_grad():
        assert torch.equal(headed(one)(images), headed(other)(images))


@pytest.mark.parametrize("made", [Deeper, Stemmed])
def test_private_values_do_not_influence_the_outputs(made) -> None:
    """Also where a private layer runs before the cut: what a factory puts there may be of its
    own data."""
    one, other = made(seed=5), made(seed=6)
    with_conv_of(other, one)
    images, _ = images_of(5)
    with torch.no_grad():
        assert not torch.equal(one(images), other(images))
        assert torch.equal(headed(one)(images), headed(other)(images))


def test_shared_values_influence_the_outputs() -> None:
    images, _ = images_of(5)
    assert not torch.equal(headed(small_net(1))(images), headed(small_net(2))(images))


@pytest.mark.parametrize("outputs", [1, 3, 10])
def test_there_is_one_output_a_class(outputs: int) -> None:
    assert headed(small_net(), outputs=outputs)(images_of(4)[0]).shape == (4, outputs)


def test_the_head_is_tanh_averages_over_a_grid_and_one_public_layer() -> None:
    model = small_net()
    images, _ = images_of(3)
    features = torch.tanh(model.conv(images)).flatten(1)  # 4 x 4 already
    head = headed(model)
    weight = public_values("public_head.weight", torch.empty(3, 48), 7)
    torch.testing.assert_close(head(images), features @ weight.T)


def test_a_large_map_is_averaged_to_at_most_four_by_four() -> None:
    model = ThreeLayerCNN(widths=(2, 3, 4), classes=3)
    head = headed(model, size=(1, 28, 28))
    assert head.public_head.in_features == 3 * 4 * 4
    assert head(torch.zeros(2, 1, 28, 28)).shape == (2, 3)


def test_tokens_are_averaged() -> None:
    class Tokens(nn.Module):
        shared = ("embed",)

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Linear(6, 8)
            self.fc = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.embed(x[:, 0]).mean(1))

    head = headed(Tokens())
    assert head.public_head.in_features == 8
    assert head(images_of(4)[0]).shape == (4, 3)


def test_heads_of_two_agreements_differ() -> None:
    one, other = headed(small_net(), seed=7), headed(small_net(), seed=8)
    assert not torch.equal(one.public_head.weight, other.public_head.weight)


def test_gradients_of_single_records_are_computed_through_the_head() -> None:
    head = headed(small_net())
    trained = {n: p for n, p in head.named_parameters() if p.requires_grad}
    images, labels = images_of(4)
    found, _ = UnitGradients(head, trained, functional.cross_entropy)(images, labels)
    for i in range(4):
        loss = functional.cross_entropy(head(images[i : i + 1]), labels[i : i + 1])
        for name, wanted in zip(trained, torch.autograd.grad(loss, trained.values()), strict=True):
            torch.testing.assert_close(found[name][i], wanted)


def test_a_residual_network_can_have_a_public_head() -> None:
    torch.manual_seed(1)
    head = headed(ResNet18(2, channels=1, norm="group"), size=(1, 32, 32), outputs=2)
    assert head(torch.zeros(1, 1, 32, 32)).shape == (1, 2)


def test_the_head_is_cut_behind_the_last_shared_layer_that_runs() -> None:
    """In the order of the forward pass, not of the constructor."""

    class Backwards(nn.Module):
        shared = ("second", "first")

        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(2, 5, 1)
            self.first = nn.Conv2d(1, 2, 1)
            self.fc = nn.Linear(180, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.second(self.first(x)).flatten(1))

    assert headed(Backwards()).public_head.in_features == 5 * 3 * 3


def test_a_shared_layer_that_stands_under_two_names_is_trained() -> None:
    class Twice(nn.Module):
        shared = ("second", "first")

        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Conv2d(1, 1, 1)
            self.first = self.second
            self.fc = nn.Linear(36, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.second(x).flatten(1))

    head = headed(Twice())
    trained = {name for name, p in head.named_parameters() if p.requires_grad}
    assert trained == {"module.second.weight", "module.second.bias"}


class Bare(nn.Module):
    """A shared parameter that belongs to no layer."""

    shared = ("scale",)

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(36))
        self.fc = nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.flatten(1) * self.scale)


class Unused(Deeper):
    """The shared layer is there and never called."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.conv2d(x, self.conv.weight, self.conv.bias)
        return self.fc(torch.relu(self.more(torch.relu(x))).flatten(1))


@pytest.mark.parametrize("made", [Bare, Unused])
def test_a_model_whose_forward_pass_runs_no_shared_layer_is_refused(made) -> None:
    with pytest.raises(ModelError, match="no shared layer") as caught:
        headed(made())
    assert "public_head" in caught.value.cure


def test_a_shared_layer_that_puts_out_no_tensor_is_refused_by_its_class() -> None:
    class Recurrent(nn.Module):
        shared = ("rnn",)

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(6, 4, batch_first=True)
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.rnn(x[:, 0])[0].mean(1))

    with pytest.raises(ModelError, match="RNN"):
        headed(Recurrent())


# --- public values -----------------------------------------------------------------------------


def test_public_values_follow_from_seed_name_and_shape_alone() -> None:
    like = torch.empty(6, 4)
    values = public_values("fc.weight", like, 7)
    torch.manual_seed(99)
    assert torch.equal(public_values("fc.weight", torch.ones(6, 4), 7), values)
    assert not torch.equal(public_values("fc.weight", like, 8), values)
    assert not torch.equal(public_values("fd.weight", like, 7), values)


def test_public_weights_keep_the_size_of_a_signal() -> None:
    values = public_values("conv.weight", torch.empty(64, 32, 3, 3), 7)
    assert float(values.std()) == pytest.approx(1 / math.sqrt(32 * 9), rel=0.02)
    assert float(values.mean()) == pytest.approx(0.0, abs=0.001)
    assert float(values.abs().max()) <= math.sqrt(3 / (32 * 9))


def test_public_scales_are_one_and_shifts_zero() -> None:
    assert public_values("norm.weight", torch.empty(4), 7).tolist() == [1.0] * 4
    assert public_values("norm.bias", torch.empty(4), 7).tolist() == [0.0] * 4
    assert public_values("fc.bias", torch.empty(()), 7).tolist() == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_public_values_have_the_dtype_of_the_parameter(dtype: torch.dtype) -> None:
    values = public_values("fc.weight", torch.empty(3, 5, dtype=dtype), 7)
    assert values.dtype == dtype
    torch.testing.assert_close(
        values.float(), public_values("fc.weight", torch.empty(3, 5), 7), rtol=1e-3, atol=0
    )


def test_equal_architectures_freeze_equal_heads() -> None:
    """Whatever their values were before, and whatever is shared."""
    one, other = small_net(seed=1), small_net(seed=2)
    for model in (one, other):
        freeze_private(model, split_model(model), seed=7)
    assert torch.equal(one.classifier.weight, other.classifier.weight)
    assert torch.equal(one.classifier.bias, other.classifier.bias)
    assert not torch.equal(one.conv.weight, other.conv.weight)


def test_private_parameters_ask_for_no_gradient_and_shared_ones_do() -> None:
    model = small_net()
    conv = deepcopy(model.conv)
    freeze_private(model, split_model(model), seed=7)
    asked = {name: p.requires_grad for name, p in model.named_parameters()}
    assert asked == {
        "conv.weight": True, "conv.bias": True,
        "classifier.weight": False, "classifier.bias": False,
    }  # fmt: skip
    assert torch.equal(model.conv.weight, conv.weight)


def test_private_buffers_keep_what_the_factory_gave_them() -> None:
    model = small_net()
    model.classifier.register_buffer("scale", torch.full((3,), 5.0))
    freeze_private(model, split_model(model), seed=7)
    assert torch.equal(named_tensors(model)["classifier.scale"], torch.full((3,), 5.0))


def test_a_private_parameter_that_is_tied_is_frozen_once_under_one_name() -> None:
    model = small_net()
    model.again = nn.Linear(48, 3)
    model.again.weight = model.classifier.weight
    freeze_private(model, split_model(model), seed=7)
    assert model.again.weight is model.classifier.weight
    assert not any(p.requires_grad for n, p in model.named_parameters() if "conv" not in n)
