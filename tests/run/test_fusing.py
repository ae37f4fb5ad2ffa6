"""Fusion without harm: what is released, what is made of it, and which model is kept."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from splitfed.config import OwnFusionConfig
from splitfed.evaluation import Predictions, predict
from splitfed.fusion import OUTPUTS
from splitfed.run.fusing import Ensemble, outputs_of, teacher
from splitfed.sharing import private_tensors, shared_tensors
from splitfed.tensors import digest
from tests.support.data import tiny_set
from tests.support.fusing import CONSENT, SIZE, learner, quiet, received, tiny_net
from tests.support.training import CLASSES

# --- what is released ------------------------------------------------------------------------


def test_a_row_of_a_model_that_overflows_says_nothing() -> None:
    rows = torch.tensor([[0.2, 0.8], [torch.nan, 0.5], [torch.inf, 0.0]], dtype=torch.float64)
    found = Predictions(probabilities=rows, values=None, labels=None, loss=None)
    outputs = outputs_of(found)[OUTPUTS]
    assert outputs.dtype == torch.float32
    assert outputs[1:].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert torch.allclose(outputs[0], torch.tensor([0.2, 0.8]))


def test_the_released_outputs_are_those_of_the_fitted_model_on_the_reference_images() -> None:
    it = learner()
    it.train(1, quiet)
    before = digest(private_tensors(it.model, it.split))
    it.prepare("outputs", True, quiet)
    assert digest(private_tensors(it.model, it.split)) != before  # fitted first
    wanted = predict(it.model, it.data.reference).probabilities
    assert torch.allclose(it.outgoing()[OUTPUTS].double(), wanted, atol=1e-6)


def test_fitting_and_distilling_show_that_they_live() -> None:
    """A peer with patience must not take whoever fits for hours for dead."""
    it, told = learner(acceptance=False), []

    def tell(done: int, of: int, loss: float) -> None:
        told.append((done, of))

    it.train(1, tell)
    for work in (lambda: it.prepare("outputs", True, tell), lambda: it.absorb(received())):
        told.clear()
        work()
        assert told
        assert set(told) == {(0, 0)}


def test_between_rounds_the_model_is_not_fitted_first() -> None:
    it = learner()
    it.train(1, quiet)
    before = digest(it.state()[0])
    it.prepare("outputs", False, quiet)
    after = {n: t for n, t in it.state()[0].items() if not n.startswith("outgoing/")}
    assert digest(after) == before


def test_private_layers_are_released_as_they_are_and_the_shared_ones_are_not_among_them() -> None:
    it = learner("average", own_fusion=CONSENT)
    it.train(1, quiet)
    it.prepare("private", True, quiet)
    assert digest(it.outgoing()) == digest(private_tensors(it.model, it.split))
    assert not set(it.outgoing()) & set(it.split.shared_names)


# --- what is made of it ----------------------------------------------------------------------


def test_the_teacher_is_the_mean_and_at_home_needs_no_noise() -> None:
    sent = {
        "a": {OUTPUTS: torch.tensor([[0.5, 0.5]])},
        "b": {OUTPUTS: torch.tensor([[0.0, 1.0]])},
    }
    assert teacher(sent, "a", None).tolist() == [[0.25, 0.75]]


def test_under_noise_whoever_is_surer_counts_for_more_and_the_own_part_is_the_personal_one() -> (
    None
):
    unsure = torch.tensor([[0.4, 0.6]])
    sent = {"a": {OUTPUTS: torch.tensor([[0.5, 0.5]])}, "b": {OUTPUTS: unsure}}
    own = torch.tensor([[0.99, 0.01]])
    odds = ((0.99 * 0.4) ** 0.5, (0.01 * 0.6) ** 0.5)
    found = teacher(sent, "a", own)
    assert found.tolist()[0] == pytest.approx([odds[0] / sum(odds), odds[1] / sum(odds)])
    # an own release that was refused for all does not take the own opinion away
    assert torch.equal(teacher({"b": sent["b"]}, "a", own), found)


def test_distilling_leaves_the_personal_model_as_it_was() -> None:
    it, came = learner(), received()
    it.train(1, quiet)
    it.prepare("outputs", True, quiet)
    model = digest(shared_tensors(it.model, it.split) | private_tensors(it.model, it.split))
    it.fuse(came, it.shared())
    assert it.fused is not None
    assert it.fused is not it.model
    after = digest(shared_tensors(it.model, it.split) | private_tensors(it.model, it.split))
    assert after == model
    fused = shared_tensors(it.fused, it.split) | private_tensors(it.fused, it.split)
    assert digest(fused) != model


def test_the_local_only_branch_sees_the_own_labels_as_often_as_the_fused_model() -> None:
    """Or the comparison would credit the federation with more training."""
    it, epochs = learner(own_fusion=OwnFusionConfig(epochs=3)), []
    it.train(1, quiet)
    it.prepare("outputs", True, quiet)
    real = it._baseline.fit_all
    it._baseline.fit_all = lambda count=None, told=None: epochs.append(count) or real(count)
    it.fuse(received(), it.shared())
    assert epochs == [3]


def test_a_teacher_that_diverges_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitfed.errors import TrainingDiverged
    from splitfed.training import Trainer

    def diverge(*_: Any, **__: Any) -> None:
        raise TrainingDiverged("the training loss is nan")

    it, came = learner(), received()
    it.train(1, quiet)
    it.prepare("outputs", True, quiet)
    monkeypatch.setattr(Trainer, "distill", diverge)
    it.fuse(came, it.shared())
    assert it.fused is None
    assert it.personal()[0] in ("partial", "local_only")


def test_an_ensemble_answers_with_the_mean_of_its_members_probabilities() -> None:
    images = tiny_set(9, size=SIZE)
    one, two = tiny_net(1), tiny_net(2)
    both = predict(Ensemble({"own": one, "b": two}, len(CLASSES)), images).probabilities
    mean = (predict(one, images).probabilities + predict(two, images).probabilities) / 2
    assert torch.allclose(both, mean, atol=1e-6)


def test_an_ensemble_of_a_regression_answers_with_the_mean_value() -> None:
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.tensor(value))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.value.expand(len(x), 1)

    made = Ensemble({"own": Constant(1.0), "b": Constant(4.0)}, 0)
    assert made(torch.zeros(2, 1)).tolist() == [[2.5], [2.5]]


def test_the_others_of_an_ensemble_are_rebuilt_from_what_they_released() -> None:
    came = received("private")
    it = learner("ensemble", own_fusion=CONSENT)
    it.train(1, quiet)
    it.prepare("private", True, quiet)
    shared = it.shared()
    it.fuse(came, shared)
    assert it.fused.names == ("own", "b")
    own, other = it.fused.members
    assert own is it.model
    floats = {n: t for n, t in came["b"].items() if t.is_floating_point()}
    found = private_tensors(other, it.split)
    assert digest({name: found[name] for name in floats}) == digest(floats)
    assert digest(shared_tensors(other, it.split)) == digest(shared)


def test_averaging_equal_private_layers_changes_nothing() -> None:
    it = learner("average", own_fusion=CONSENT)
    it.train(1, quiet)
    it.prepare("private", True, quiet)
    same = it.outgoing()
    it.fuse({"a": same, "b": same}, it.shared())
    assert digest(private_tensors(it.fused, it.split)) == digest(same)


# --- which model is kept ---------------------------------------------------------------------


class Says(nn.Module):
    """Answers every image with one class."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answer = answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.full((len(x),), self.answer), len(CLASSES)) * 9.0


@pytest.mark.parametrize(
    ("answers", "kept"),
    [
        ({"partial": 0, "local_only": 1, "fused": 2}, "fused"),
        ({"partial": 2, "local_only": 1, "fused": 2}, "partial"),
        ({"partial": 0, "local_only": 2, "fused": 2}, "local_only"),
        ({"partial": 0, "local_only": 2, "fused": 1}, "local_only"),
        ({"partial": 2, "local_only": 0, "fused": 0}, "partial"),
        ({"partial": 2, "local_only": 2, "fused": 0}, "local_only"),
        ({"partial": 1, "local_only": 0, "fused": 0}, "local_only"),
    ],
)
def test_a_model_is_kept_only_if_it_is_clearly_better_than_the_one_trained_alone(
    answers: dict[str, int], kept: str
) -> None:
    """Class 2 is right most often, class 1 only twice more often than class 0."""
    images = tiny_set(12, size=SIZE)
    labels = torch.tensor([0, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2])
    it = learner()
    it.data = replace(it.data, validation=replace(images, labels=labels))
    it._own.model = Says(answers["partial"])
    it._baseline.model = Says(answers["local_only"])
    it.fused = Says(answers["fused"])
    assert it.personal()[0] == kept


def test_among_equally_right_models_the_one_with_the_lower_loss_is_kept() -> None:
    class Surer(Says):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / 9.0  # as often right, and less sure of what is wrong

    images = tiny_set(12, size=SIZE)
    it = learner()
    it.data = replace(it.data, validation=replace(images, labels=torch.tensor([2, 2, 0] * 4)))
    it._own.model, it._baseline.model, it.fused = Says(2), Says(0), Surer(2)
    assert it.personal()[0] == "fused"
    it._baseline.model = Says(2)
    assert it.personal()[0] == "local_only"


def test_without_validation_images_the_personal_model_stays() -> None:
    it = learner()
    it.data = replace(it.data, validation=None)
    it.fused = Says(2)
    assert it.personal() == ("partial", it.model)


# --- restarts and more rounds ----------------------------------------------------------------


def test_a_restart_after_the_fit_releases_and_fuses_the_same_bytes() -> None:
    came = received()
    calm, rough = learner(), learner()
    for it in (calm, rough):
        it.train(1, quiet)
        it.prepare("outputs", True, quiet)
    again = learner()
    again.restore(*rough.state())
    assert digest(again.outgoing()) == digest(calm.outgoing())
    for it in (calm, again):
        it.fit()  # done already
        it.fuse(came, it.shared())
    tensors = [
        shared_tensors(it.fused, it.split) | private_tensors(it.fused, it.split)
        for it in (calm, again)
    ]
    assert digest(tensors[0]) == digest(tensors[1])


def test_rounds_that_are_added_go_on_from_before_the_fit() -> None:
    plain, fused = learner(), learner()
    plain.train(1, quiet)
    plain.train(2, quiet)
    fused.train(1, quiet)
    fused.prepare("outputs", True, quiet)
    again = learner()
    again.restore(*fused.state())
    again.train(2, quiet)
    assert digest(again.state()[0]) == digest(plain.state()[0])
