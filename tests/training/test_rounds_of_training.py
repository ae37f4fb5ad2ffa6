from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from splitfed.data import ImageSet
from splitfed.errors import DataError, Defect, ModelError, UserError
from splitfed.random import derive, generator
from splitfed.sharing import named_tensors, shared_tensors
from splitfed.tensors import digest
from splitfed.training import batches as batches_module
from splitfed.training import determinism as determinism_module
from splitfed.training import loop as loop_module
from splitfed.training import trainer as trainer_module
from splitfed.training.determinism import deterministic
from tests.support.data import tiny_set
from tests.support.training import CLASSES, TinyNet, tiny_trainer


def weights(trainer: object) -> bytes:
    return digest(trainer.state()[0])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_equal_arguments_give_equal_bytes(optimizer: str) -> None:
    one, two = tiny_trainer(optimizer=optimizer), tiny_trainer(optimizer=optimizer)
    for number in (1, 2):
        assert one.train_round(number).loss == two.train_round(number).loss
    assert weights(one) == weights(two)


@pytest.mark.parametrize("other", [{"agreed_seed": 8}, {"party": "hospital-b"}])
def test_another_seed_or_party_draws_other_batches(other: dict) -> None:
    one, two = tiny_trainer(), tiny_trainer(**other)
    assert one.train_round(1).loss != two.train_round(1).loss


def test_a_partys_own_seed_replaces_the_agreements() -> None:
    agreed, other, own = (
        tiny_trainer(agreed_seed=1).train_round(1).loss,
        tiny_trainer(agreed_seed=2).train_round(1).loss,
        tiny_trainer(agreed_seed=2, seed=1).train_round(1).loss,
    )
    assert agreed == own != other


def test_each_round_draws_other_batches() -> None:
    one, two = tiny_trainer(), tiny_trainer()
    assert one.train_round(1).loss != two.train_round(2).loss


def test_a_round_neither_uses_nor_moves_the_global_generator() -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    one = tiny_trainer()
    one.train_round(1)
    assert torch.equal(torch.rand(3), expected)
    two = tiny_trainer()
    two.train_round(1)  # from another state of the global generator
    assert weights(one) == weights(two)


def test_a_round_is_the_plain_loop_of_torch() -> None:
    """One epoch of SGD with momentum, written out by hand on the same batches."""
    trainer = tiny_trainer(lr=0.1, momentum=0.5, weight_decay=0.01, epochs=2)
    by_hand = TinyNet()
    by_hand.load_state_dict(trainer.model.state_dict())
    result = trainer.train_round(3)
    data = tiny_set(21, size=(6, 6))
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    total = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(derive(7, "hospital-a", 3, "training"))
        for epoch in (0, 1):
            draw = generator(7, "hospital-a", 3, "training", "batches", epoch)
            for index in torch.randperm(21, generator=draw).split(8):
                images, labels = data.batch(index)
                loss = nn.functional.cross_entropy(by_hand(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item() * len(index)
    assert digest(named_tensors(by_hand)) == digest(named_tensors(trainer.model))
    assert result.loss == pytest.approx(total / 42, rel=1e-12)
    assert (result.steps, result.images) == (6, 42)


def test_converting_batch_by_batch_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = tiny_trainer()
    monkeypatch.setattr(batches_module, "READY_BYTES", 0)
    one_by_one = tiny_trainer()
    assert one_by_one._batches._ready is None
    assert ready.train_round(1).loss == one_by_one.train_round(1).loss
    assert weights(ready) == weights(one_by_one)


def test_a_trained_model_learns_the_task() -> None:
    trainer = tiny_trainer(epochs=5)
    first = trainer.train_round(1).loss
    for number in (2, 3, 4):
        last = trainer.train_round(number).loss
    assert last < first / 4


def test_steps_go_on_into_the_next_epoch() -> None:
    trainer = tiny_trainer(steps=5)
    assert trainer.steps_per_round == 5
    result = trainer.train_round(1)
    assert (result.steps, result.images) == (5, 8 + 8 + 5 + 8 + 8)


def test_epochs_and_steps_exclude_each_other() -> None:
    trainer = tiny_trainer()
    for both in ({"epochs": 1, "steps": 1}, {"epochs": None, "steps": None}):
        settings = trainer._settings.model_copy(update=both)
        with pytest.raises(UserError, match="epochs = .* and steps = "):
            trainer_module.Trainer(
                TinyNet(),
                tiny_set(21, size=(6, 6)),
                settings,
                split=trainer.split,
                classes=CLASSES,
                seed=1,
                party="a",
                total_rounds=1,
            )


def test_merge_restarts_the_shared_momentum_and_keeps_the_private() -> None:
    trainer = tiny_trainer()
    trainer.train_round(1)
    before = trainer.state()[0]
    private = {n for n in before if n.startswith(("optimizer/classifier", "optimizer/own_norm"))}
    assert "optimizer/conv.weight/momentum_buffer" in before
    agreed = {
        n: torch.zeros_like(t) for n, t in shared_tensors(trainer.model, trainer.split).items()
    }
    trainer.merge(agreed)
    after = trainer.state()[0]
    assert {n for n in after if n.startswith("optimizer/")} == private
    assert all(torch.equal(before[n], after[n]) for n in private)
    assert digest(shared_tensors(trainer.model, trainer.split)) == digest(agreed)
    assert torch.equal(before["model/classifier.weight"], after["model/classifier.weight"])


def test_merge_takes_exactly_the_shared_tensors() -> None:
    trainer = tiny_trainer()
    agreed = shared_tensors(trainer.model, trainer.split)
    with pytest.raises(Defect, match="classifier.bias"):
        trainer.merge({**agreed, "classifier.bias": torch.zeros(3)})
    with pytest.raises(Defect, match="conv.weight"):
        trainer.merge({n: t for n, t in agreed.items() if n != "conv.weight"})


def test_a_loss_that_is_not_finite_names_party_round_step_and_loss() -> None:
    images, labels = tiny_set(21, size=(6, 6)).batch(torch.arange(21))
    images[13, 0, 2, 2] = math.nan
    draw = generator(7, "hospital-a", 3, "training", "batches", 0)
    order = torch.randperm(21, generator=draw).tolist()
    trainer = tiny_trainer(data=ImageSet(images=images, labels=labels))
    step = order.index(13) // 8 + 1
    with pytest.raises(
        UserError, match=f"hospital-a: the training loss is nan in round 3, step {step} of 3"
    ) as caught:
        trainer.train_round(3)
    assert "lr" in caught.value.cure


def test_a_diverging_round_is_stopped_at_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "REPORT_SECONDS", 0.0)
    seen: list[int] = []
    trainer = tiny_trainer(lr=1e30, steps=50)
    with pytest.raises(UserError, match="the training loss is (nan|inf) in round 1, step"):
        trainer.train_round(1, lambda step, steps, loss: seen.append(step))
    assert len(seen) < 10


def test_progress_is_told_at_most_every_interval_and_always_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int, float]] = []
    monkeypatch.setattr(loop_module, "REPORT_SECONDS", math.inf)
    result = tiny_trainer().train_round(1, lambda *told: seen.append(told))
    assert seen == [(3, 3, result.loss)]
    monkeypatch.setattr(loop_module, "REPORT_SECONDS", 0.0)
    tiny_trainer().train_round(1, lambda *told: seen.append(told))
    assert [told[:2] for told in seen[1:]] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1][2] == result.loss


def test_gradients_are_given_back_after_a_round() -> None:
    trainer = tiny_trainer()
    trainer.train_round(1)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_parameters_the_model_froze_stay_as_they_are() -> None:
    model = TinyNet()
    model.conv.weight.requires_grad_(False)
    before = model.conv.weight.clone()
    trainer = tiny_trainer(model, weight_decay=0.5)
    trainer.train_round(1)
    trainer.fit_private()
    assert torch.equal(model.conv.weight, before)
    assert not model.conv.weight.requires_grad


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(ModelError, match="TinyNet has no parameter to train"):
        tiny_trainer(TinyNet().requires_grad_(False))


def test_mean_squared_error_fits_a_line() -> None:
    inputs = torch.linspace(-1, 1, 32)[:, None]
    data = ImageSet(images=inputs, labels=(3 * inputs[:, 0] + 1))
    model = nn.Linear(1, 1)
    trainer = tiny_trainer(model, data=data, shared=("*",), loss="mse", epochs=60, lr=0.1)
    result = trainer.train_round(1)
    assert result.loss is not None
    assert model.weight.item() == pytest.approx(3, abs=1e-3)
    assert model.bias.item() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("labels", "loss", "match"),
    [
        (None, "cross_entropy", "no labels"),
        (torch.tensor([0, 1, 2, 3]), "cross_entropy", "from 0 to 3, but there are 3 classes"),
        (torch.tensor([0, -1, 2, 1]), "cross_entropy", "from -1 to 2"),
        (torch.zeros(4), "cross_entropy", "float32"),
        (torch.tensor([0, 1, 2, 0]), "mse", "int64"),
    ],
)
def test_labels_the_loss_cannot_use_are_refused_before_the_first_step(
    labels: torch.Tensor | None, loss: str, match: str
) -> None:
    data = ImageSet(images=torch.zeros(4, 1, 6, 6), labels=labels)
    with pytest.raises(DataError, match=match):
        tiny_trainer(data=data, loss=loss)


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_outputs_of_another_shape_are_a_model_error(loss: str) -> None:
    labels = torch.tensor([0, 1, 2]) if loss == "cross_entropy" else torch.zeros(3)
    data = ImageSet(images=torch.zeros(3, 5), labels=labels)
    trainer = tiny_trainer(nn.Linear(5, 2), data=data, shared=("*",), loss=loss)
    with pytest.raises(ModelError, match=r"outputs have shape \[3, 2\]"):
        trainer.train_round(1)


def test_cuda_where_there_is_none_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="device = 'cuda'") as caught:
        tiny_trainer(device="cuda")
    assert "cpu" in caught.value.cure


class Scatters(TinyNet):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        outputs = super().forward(images)
        return outputs + torch.zeros(1).put_(torch.tensor([0]), outputs.sum()[None])


def test_an_operation_that_is_not_deterministic_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match="put_ does not have a deterministic implementation"):
        tiny_trainer(Scatters()).train_round(1)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("compiler", [False, True])
def test_switches_for_determinism_are_put_back(
    compiler: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either of torch's doors to them: with its compiler loaded, and without."""
    from torch._inductor import config

    if not compiler:
        monkeypatch.setattr(determinism_module, "sys", SimpleNamespace(modules={}))
    for enabled, warn_only in ((False, False), (True, False), (True, True)):
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
        try:
            with deterministic():
                assert torch.are_deterministic_algorithms_enabled()
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
                assert config.deterministic == (compiler or enabled)
                assert not torch.utils.deterministic.fill_uninitialized_memory
            assert torch.are_deterministic_algorithms_enabled() == enabled
            assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
            assert torch.utils.deterministic.fill_uninitialized_memory
        finally:
            torch.use_deterministic_algorithms(False)


def test_a_round_of_training_leaves_the_switches_as_they_were() -> None:
    tiny_trainer().train_round(1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
