"""Learning from averaged outputs: the loss by hand, the batches, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from splitfed.data import ImageSet
from splitfed.errors import DataError, UserError
from splitfed.random import derive, generator
from splitfed.sharing import named_tensors
from splitfed.tensors import digest
from splitfed.training import RoundResult, Trainer
from tests.support.data import tiny_set
from tests.support.training import TinyNet, tiny_trainer

REFERENCE = tiny_set(13, size=(6, 6), seed=9).without_labels()


def teacher_of(images: int = 13, seed: int = 3) -> torch.Tensor:
    return torch.softmax(3 * torch.randn(images, 3, generator=generator(seed, "teacher")), dim=1)


def distil(
    trainer: Trainer,
    reference: ImageSet = REFERENCE,
    teacher: torch.Tensor | None = None,
    **changes: float,
) -> RoundResult:
    terms: dict = {"temperature": 2.0, "weight": 0.5, "epochs": 2, **changes}
    return trainer.distill(reference, teacher_of() if teacher is None else teacher, **terms)


def test_a_step_is_the_plain_loop_of_torch() -> None:
    """Two epochs of 3 own batches, while 13 reference images in batches of 8 come round."""
    trainer = tiny_trainer(lr=0.1, momentum=0.5, weight_decay=0.01)
    by_hand = TinyNet()
    by_hand.load_state_dict(trainer.model.state_dict())
    teacher = teacher_of()
    result = distil(trainer, teacher=teacher, temperature=2.0, weight=0.5)
    own = tiny_set(21, size=(6, 6))

    def order(count: int, epoch: int, *path: str) -> list[torch.Tensor]:
        draw = generator(7, "hospital-a", *path, "batches", epoch)
        return list(torch.randperm(count, generator=draw).split(8))

    ours = [i for epoch in (0, 1) for i in order(21, epoch, "distill")]
    theirs = [i for epoch in (0, 1, 2) for i in order(13, epoch, "distill", "reference")]
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.5, weight_decay=0.01)
    total = 0.0
    with torch.random.fork_rng():
        torch.manual_seed(derive(7, "hospital-a", "distill"))
        for one, other in zip(ours, theirs, strict=True):
            images, labels = own.batch(one)
            outputs = by_hand(torch.cat((images, REFERENCE.batch(other)[0])))
            softened = torch.softmax(teacher[other].log() / 2, dim=1)
            gap = (softened * (softened.log() - (outputs[len(one) :] / 2).log_softmax(1))).sum(1)
            loss = nn.functional.cross_entropy(outputs[: len(one)], labels)
            loss = (loss + 0.5 * 4 * gap.mean()) / 1.5
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(one)
    assert result.loss == pytest.approx(total / 42, rel=1e-5)
    assert (result.steps, result.images) == (6, 42)
    after = named_tensors(trainer.model)
    for name, tensor in named_tensors(by_hand).items():
        assert torch.allclose(tensor, after[name], rtol=1e-4, atol=1e-6), name


def test_every_layer_moves_and_equal_arguments_give_equal_bytes() -> None:
    one, two = tiny_trainer(weight_decay=0.1), tiny_trainer(weight_decay=0.1)
    before = one.state()[0]
    assert distil(one).loss == distil(two).loss
    after = one.state()[0]
    assert digest(after) == digest(two.state()[0])
    assert not [name for name in before if torch.equal(before[name], after[name])]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_momentum_starts_anew_and_is_forgotten_afterwards(optimizer: str) -> None:
    trained = tiny_trainer(optimizer=optimizer)
    trained.train_round(1)
    state, meta = trained.state()
    assert [name for name in state if name.startswith("optimizer/")]
    fresh = tiny_trainer(optimizer=optimizer)
    fresh.load_state({n: t for n, t in state.items() if n.startswith("model/")}, meta)
    for trainer in (trained, fresh):
        distil(trainer)
    assert digest(trained.state()[0]) == digest(fresh.state()[0])
    assert not [name for name in trained.state()[0] if name.startswith("optimizer/")]


def test_a_student_takes_over_what_only_the_teacher_knows() -> None:
    """The own images show two of three classes; the reference images show all."""
    everything = tiny_set(60, size=(6, 6), noise=10)
    assert everything.labels is not None
    own = everything.subset([i for i in range(60) if i % 3 != 2])
    reference = tiny_set(90, size=(6, 6), noise=10, seed=4)
    assert reference.labels is not None
    teacher = nn.functional.one_hot(reference.labels, 3).float()
    student, alone = tiny_trainer(data=own), tiny_trainer(data=own)
    student.distill(reference.without_labels(), teacher, temperature=2.0, weight=1.0, epochs=20)
    alone.fit_all(20)

    def right(trainer: Trainer) -> float:
        trainer.model.eval()
        images, labels = everything.batch(torch.arange(60))
        assert labels is not None
        return float((trainer.model(images).argmax(1) == labels).float().mean())

    assert right(student) == 1.0
    assert right(alone) < 0.75


def test_labels_of_reference_images_are_not_looked_at() -> None:
    blind, labelled = tiny_trainer(), tiny_trainer()
    distil(blind)
    distil(labelled, reference=tiny_set(13, size=(6, 6), seed=9))
    assert digest(blind.state()[0]) == digest(labelled.state()[0])


def test_a_teacher_that_is_sure_gives_finite_losses() -> None:
    sure = nn.functional.one_hot(torch.arange(13) % 3, 3).float()
    assert distil(tiny_trainer(), teacher=sure).loss is not None


def test_no_epoch_leaves_the_model_alone() -> None:
    trainer = tiny_trainer()
    before = digest(trainer.state()[0])
    assert distil(trainer, epochs=0).loss is None
    assert digest(trainer.state()[0]) == before


NOT_FINITE = teacher_of()
NOT_FINITE[4, 1] = torch.nan
NEGATIVE = teacher_of()
NEGATIVE[0] = torch.tensor([-0.5, 0.5, 1.0])


@pytest.mark.parametrize(
    ("teacher", "match"),
    [
        (teacher_of(12), r"\[12, 3\], not floats \[13, 3\]"),
        (teacher_of()[:, :2], r"\[13, 2\], not floats \[13, 3\]"),
        (torch.ones(13, 3, dtype=torch.int64), "int64"),
        (NOT_FINITE, "no probabilities"),
        (NEGATIVE, "no probabilities"),
        (2 * teacher_of(), "no probabilities"),
    ],
)
def test_a_teacher_that_is_no_set_of_probabilities_is_refused(
    teacher: torch.Tensor, match: str
) -> None:
    with pytest.raises(DataError, match=match):
        distil(tiny_trainer(), teacher=teacher)


@pytest.mark.parametrize("key", ["temperature", "weight"])
def test_temperature_and_weight_are_above_zero(key: str) -> None:
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="give numbers above 0"):
            distil(tiny_trainer(), **{key: value})


def test_a_regression_is_not_distilled() -> None:
    data = ImageSet(images=torch.zeros(4, 1, 6, 6), labels=torch.zeros(4))
    with pytest.raises(UserError, match="a regression has none"):
        distil(tiny_trainer(data=data, loss="mse"))
