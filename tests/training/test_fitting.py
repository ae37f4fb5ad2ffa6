from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.errors import ModelError
from splitfed.sharing import private_tensors, shared_tensors
from splitfed.tensors import digest
from tests.support.training import TinyNet, tiny_trainer


def test_fitting_keeps_every_shared_bit_and_trains_the_private_layers() -> None:
    trainer = tiny_trainer(weight_decay=0.1)  # decay alone would move what is not frozen
    trainer.train_round(1)
    shared = shared_tensors(trainer.model, trainer.split)
    private = private_tensors(trainer.model, trainer.split)
    result = trainer.fit_private(epochs=2)
    assert (result.steps, result.images) == (6, 42)
    assert "norm.running_mean" in shared  # statistics of a shared BatchNorm are shared tensors
    assert digest(shared_tensors(trainer.model, trainer.split)) == digest(shared)
    after = private_tensors(trainer.model, trainer.split)
    changed = {name for name in private if not torch.equal(private[name], after[name])}
    assert changed == set(private)  # the private BatchNorm's statistics among them


def test_fitting_lowers_the_loss() -> None:
    trainer = tiny_trainer()
    losses = [trainer.fit_private(epochs=4).loss for _ in range(3)]
    assert losses[-1] < losses[0] / 2


def test_frozen_layers_use_their_running_statistics() -> None:
    modes: list[list[bool]] = []
    model = TinyNet()
    model.register_forward_pre_hook(
        lambda module, _: modes.append([m.training for m in module.children()])
    )
    trainer = tiny_trainer(model)
    model.eval()
    trainer.fit_private(epochs=1)
    # conv, norm, own_norm, drop, classifier
    assert modes[0] == [False, False, True, True, True]


def test_after_fitting_all_layers_train_again() -> None:
    trainer = tiny_trainer()
    modes = [module.training for module in trainer.model.modules()]
    trainer.fit_private()
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert [module.training for module in trainer.model.modules()] == modes
    before = digest(shared_tensors(trainer.model, trainer.split))
    trainer.train_round(2)
    assert digest(shared_tensors(trainer.model, trainer.split)) != before


def test_layers_train_again_after_a_fit_that_failed() -> None:
    trainer = tiny_trainer()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit_private(progress=interrupt)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())


class Restless(nn.Module):
    """Writes to its shared buffer in evaluation mode as well."""

    shared = ("counting",)

    def __init__(self) -> None:
        super().__init__()
        self.counting = nn.Module()
        self.counting.register_buffer("seen", torch.zeros(1))
        self.head = nn.Linear(36, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.counting.seen += 1
        return self.head(images.flatten(1))


def test_a_model_that_writes_to_shared_tensors_all_the_same_is_refused_and_mended() -> None:
    trainer = tiny_trainer(Restless())
    with pytest.raises(ModelError, match="shared tensor counting.seen changed"):
        trainer.fit_private()
    assert trainer.model.counting.seen.item() == 0


class Tied(nn.Module):
    """Two names for one shared weight; the second is an alias."""

    shared = ("encode", "again")

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(36, 36)
        self.again = nn.Linear(36, 36)
        self.again.weight = self.encode.weight
        self.head = nn.Linear(36, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.again(self.encode(images.flatten(1)))))


def test_tied_shared_weights_are_frozen_merged_and_restarted_as_one() -> None:
    trainer = tiny_trainer(Tied())
    trainer.train_round(1)
    before = shared_tensors(trainer.model, trainer.split)
    assert set(before) == {"again.bias", "again.weight", "encode.bias"}
    trainer.fit_private()
    assert digest(shared_tensors(trainer.model, trainer.split)) == digest(before)
    trainer.merge(before)
    tensors = trainer.state()[0]
    assert not [n for n in tensors if n.startswith(("optimizer/again", "optimizer/encode"))]
    assert "optimizer/head.weight/momentum_buffer" in tensors


def test_where_everything_is_shared_there_is_nothing_to_fit() -> None:
    trainer = tiny_trainer(shared=("*",))
    before = digest(trainer.state()[0])
    result = trainer.fit_private(epochs=3)
    assert (result.loss, result.steps, result.images) == (None, 0, 0)
    assert digest(trainer.state()[0]) == before


def test_fit_epochs_of_the_settings_are_the_default_and_none_is_allowed() -> None:
    assert tiny_trainer(fit_epochs=2).fit_private().steps == 6
    assert tiny_trainer(fit_epochs=0).fit_private().steps == 0


def test_fitting_all_layers_takes_the_same_steps_on_every_layer() -> None:
    trainer = tiny_trainer(fit_epochs=2)
    before = trainer.state()[0]
    result = trainer.fit_all()
    assert (result.steps, result.images) == (6, 42)
    after = trainer.state()[0]
    assert not torch.equal(before["model/conv.weight"], after["model/conv.weight"])


def test_fitting_private_and_all_layers_see_the_same_batches() -> None:
    seen: list[torch.Tensor] = []
    for kind in ("fit_private", "fit_all"):
        model = TinyNet()
        model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        getattr(tiny_trainer(model), kind)(1)
    assert len(seen) == 6
    assert all(torch.equal(a, b) for a, b in zip(seen[:3], seen[3:], strict=True))
