"""What one round trains under each algorithm, and what it leaves alone."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from splitfed.config import TrainingConfig
from splitfed.data import ImageSet
from splitfed.errors import ModelError, UserError
from splitfed.random import forked
from splitfed.sharing import algorithm_split, private_tensors, shared_tensors, split_model
from splitfed.tensors import Tensors, digest
from splitfed.training import Trainer, as_alone
from splitfed.training import loop as loop_module
from splitfed.training.proximal import ProximalTerm
from tests.support.data import tiny_set
from tests.support.training import CLASSES, TinyNet, tiny_trainer


def trainer_of(
    algorithm: str = "fedper",
    model: nn.Module | None = None,
    *,
    data: ImageSet | None = None,
    proximal: float = 0.0,
    **settings: Any,
) -> Trainer:
    """As ``tiny_trainer``: 21 images in batches of 8, three steps an epoch."""
    if model is None:
        with forked(1, "tiny net"):
            model = TinyNet()
    return Trainer(
        model,
        tiny_set(21, size=(6, 6)) if data is None else data,
        TrainingConfig(**{"batch_size": 8, **settings}),
        split=split_model(model, *algorithm_split(algorithm, model)),
        classes=CLASSES,
        seed=7,
        party="hospital-a",
        total_rounds=4,
        algorithm=algorithm,
        proximal=proximal,
    )


def sides(trainer: Trainer) -> tuple[Tensors, Tensors]:
    return shared_tensors(trainer.model, trainer.split), private_tensors(
        trainer.model, trainer.split
    )


def moved(before: Tensors, after: Tensors) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("algorithm", ["fedper", "fedavg", "fedbn", "lg-fedavg"])
def test_all_layers_move_together(algorithm: str) -> None:
    trainer = trainer_of(algorithm, weight_decay=0.1)  # moves a bias before a norm, too
    shared, private = sides(trainer)
    trainer.train_round(1)
    after = sides(trainer)
    assert moved(shared, after[0]) == set(shared)
    assert moved(private, after[1]) == set(private)


def test_whose_tensors_travel_does_not_change_how_all_layers_train() -> None:
    models = [trainer_of(algorithm) for algorithm in ("fedper", "fedavg", "fedbn", "lg-fedavg")]
    for trainer in models:
        trainer.train_round(1)
    assert len({digest(dict(trainer.model.state_dict())) for trainer in models}) == 1


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_fedrep_trains_the_private_layers_first_and_the_shared_ones_after(
    optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over two rounds, so that momentum of the layers that are held exists and is not used."""
    monkeypatch.setattr(loop_module, "REPORT_SECONDS", 0.0)
    trainer = trainer_of("fedrep", head_epochs=2, epochs=1, optimizer=optimizer, weight_decay=0.1)
    assert trainer.steps_per_round == 9
    for number in (1, 2):
        seen: list[tuple[int, tuple[Tensors, Tensors]]] = []
        start = sides(trainer)
        result = trainer.train_round(
            number, lambda step, steps, loss, into=seen: into.append((step, sides(trainer)))
        )
        assert (result.steps, result.images) == (9, 63)
        assert [step for step, _ in seen] == list(range(1, 10))  # progress covers both phases
        head, end = dict(seen)[6], sides(trainer)
        for step, (shared, private) in seen:
            if step <= 6:
                assert digest(shared) == digest(start[0])
            else:
                assert digest(private) == digest(head[1])
        assert moved(start[1], head[1]) == set(start[1])  # the private norm's statistics too
        assert moved(start[0], end[0]) == set(start[0])
        assert digest(end[1]) == digest(head[1])


def test_fedrep_takes_steps_of_the_body_after_whole_epochs_of_the_head() -> None:
    result = trainer_of("fedrep", head_epochs=1, steps=2).train_round(1)
    assert (result.steps, result.images) == (5, 21 + 16)


def test_fedbabu_keeps_the_private_layers_in_every_round_and_fits_them_at_the_end() -> None:
    trainer = trainer_of("fedbabu", weight_decay=0.1)
    shared, private = sides(trainer)
    for number in (1, 2):
        assert trainer.train_round(number).steps == 3
        assert digest(sides(trainer)[1]) == digest(private)
        trainer.merge({n: t * 0.9 if t.is_floating_point() else t for n, t in shared.items()})
    assert moved(shared, sides(trainer)[0])
    body = sides(trainer)[0]
    trainer.fit_private()
    assert digest(sides(trainer)[0]) == digest(body)
    assert moved(private, sides(trainer)[1]) == set(private)


@pytest.mark.parametrize("algorithm", ["fedrep", "fedbabu"])
def test_a_round_resumes_to_the_last_bit(algorithm: str) -> None:
    straight = trainer_of(algorithm, proximal=0.5)
    straight.train_round(1)
    tensors, meta = straight.state()
    straight.train_round(2)
    resumed = trainer_of(algorithm, proximal=0.5)
    resumed.load_state(tensors, meta)
    resumed.train_round(2)
    assert digest(resumed.state()[0]) == digest(straight.state()[0])


def test_afterwards_every_layer_asks_for_gradients_and_trains_again() -> None:
    trainer = trainer_of("fedrep")
    trainer.train_round(1)
    assert all(parameter.requires_grad for parameter in trainer.model.parameters())
    assert all(module.training for module in trainer.model.modules())


class Restless(nn.Module):
    """Its private buffer counts in evaluation mode as well."""

    shared = ("body",)

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(36, 3)
        self.counting = nn.Module()
        self.counting.register_buffer("seen", torch.zeros(1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.counting.seen += 1
        return self.body(images.flatten(1))


def test_a_model_that_writes_to_held_private_tensors_is_refused_and_mended() -> None:
    trainer = trainer_of("fedbabu", Restless())
    with pytest.raises(ModelError, match="private tensor counting.seen changed"):
        trainer.train_round(1)
    assert trainer.model.counting.seen.item() == 0


def test_a_side_without_parameters_takes_no_step() -> None:
    """Its buffers alone are private: nothing to train in the head's phase."""
    trainer = trainer_of("fedrep", Restless(), head_epochs=5)
    with pytest.raises(ModelError, match="counting.seen"):
        trainer.train_round(1)
    assert trainer.steps_per_round == 3


def test_a_model_alone_takes_as_many_steps_on_the_same_batches() -> None:
    seen: list[torch.Tensor] = []

    def watched() -> nn.Module:
        model = TinyNet()
        model.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        return model

    own = trainer_of("fedrep", watched(), head_epochs=2, epochs=1)
    settings = as_alone(own._settings, "fedrep", steps=own.steps_per_round)
    alone = trainer_of("fedper", watched(), **settings.model_dump(exclude_defaults=True))
    for trainer in (own, alone):
        trainer.train_round(3)
    assert len(seen) == 18
    assert all(torch.equal(a, b) for a, b in zip(seen[:9], seen[9:], strict=True))


def test_only_fedrep_changes_what_a_model_alone_trains() -> None:
    settings = TrainingConfig(epochs=2)
    for algorithm in ("fedper", "fedavg", "fedbabu", "fedbn", "lg-fedavg"):
        assert as_alone(settings, algorithm, steps=99) is settings


def test_an_unknown_algorithm_is_refused() -> None:
    trainer = tiny_trainer()
    with pytest.raises(UserError, match="'fedpr': no such algorithm"):
        Trainer(
            trainer.model, tiny_set(21, size=(6, 6)), TrainingConfig(), split=trainer.split,
            classes=CLASSES, seed=7, party="a", total_rounds=1, algorithm="fedpr",
        )  # fmt: skip


# --- FedProx ---------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["fedper", "fedrep"])
def test_mu_of_zero_is_no_term_bit_for_bit(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without, zero = trainer_of(algorithm), trainer_of(algorithm, proximal=0.0)
    without.train_round(1)
    monkeypatch.delattr(ProximalTerm, "__init__")  # never even made
    zero.train_round(1)
    assert digest(zero.state()[0]) == digest(without.state()[0])


def test_the_gradient_is_mu_times_the_way_from_where_the_round_began() -> None:
    """Two steps of plain SGD on a line y = w x + b, written out by hand; b is private."""

    class Line(nn.Module):
        shared = ("slope",)

        def __init__(self) -> None:
            super().__init__()
            self.slope = nn.Parameter(torch.tensor([[2.0]]))
            self.offset = nn.Parameter(torch.tensor([0.5]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.slope + self.offset

    x, y = torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, -2.0])
    trainer = trainer_of(
        model=Line(), data=ImageSet(images=x, labels=y), loss="mse", steps=2, lr=0.1, momentum=0.0,
        proximal=4.0,
    )  # fmt: skip
    trainer.train_round(1)
    w, b, g = 2.0, 0.5, 2.0
    for _ in range(2):
        gaps = [(w * xi + b - yi, xi) for xi, yi in ((1.0, 1.0), (3.0, -2.0))]
        slope = sum(2 * gap * xi for gap, xi in gaps) / 2 + 4.0 * (w - g)
        offset = sum(2 * gap for gap, _ in gaps) / 2
        w, b = w - 0.1 * slope, b - 0.1 * offset
    assert trainer.model.slope.item() == pytest.approx(w, rel=1e-6)
    assert trainer.model.offset.item() == pytest.approx(b, rel=1e-6)


def test_the_term_is_the_gradient_of_its_formula_and_passes_over_what_is_frozen() -> None:
    model = nn.Linear(3, 2)
    term = ProximalTerm(model.parameters(), 0.7)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight += torch.linspace(-1, 1, 6).reshape(2, 3)
    by_formula = model.weight.detach().clone().requires_grad_()
    torch.autograd.backward(0.7 / 2 * (by_formula - start).square().sum())
    model.weight.grad = torch.zeros_like(model.weight)
    term.add_gradients()
    assert by_formula.grad is not None
    assert torch.allclose(model.weight.grad, by_formula.grad)
    assert model.bias.grad is None


def test_a_strong_pull_keeps_the_shared_layers_near_and_the_private_ones_free() -> None:
    def far(proximal: float) -> tuple[float, float]:
        trainer = trainer_of(proximal=proximal, epochs=5, lr=0.01, momentum=0.0)
        names = {name for name, _ in trainer.model.named_parameters()}
        before = sides(trainer)
        trainer.train_round(1)
        return tuple(
            math.sqrt(sum(float((b[n] - a[n]).square().sum()) for n in b.keys() & names))
            for b, a in zip(before, sides(trainer), strict=True)
        )

    free, held = far(0.0), far(100.0)
    assert held[0] < free[0] / 5
    assert held[1] > free[1] / 2


def test_every_round_pulls_to_its_own_beginning() -> None:
    """Merging in between moves g: the second round starts there, not at the first round's."""
    trainer = trainer_of(proximal=100.0, lr=0.01, momentum=0.0)
    trainer.train_round(1)
    shared = sides(trainer)[0]
    agreed = {n: t + 3 if t.is_floating_point() else t for n, t in shared.items()}
    trainer.merge(agreed)
    trainer.train_round(2)
    weight = sides(trainer)[0]["conv.weight"]
    assert float((weight - agreed["conv.weight"]).abs().max()) < 0.1


def test_fitting_knows_no_pull() -> None:
    pulled, free = trainer_of(proximal=50.0), trainer_of()
    for trainer in (pulled, free):
        trainer.fit_all(2)
        trainer.fit_private(1)
    assert digest(pulled.state()[0]) == digest(free.state()[0])
