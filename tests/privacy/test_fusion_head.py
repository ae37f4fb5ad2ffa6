"""What leaves for fusion under noise: from the federated track alone, paid for, and no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from splitfed.config import TrainingConfig
from splitfed.privacy import Spend, epsilon, mechanism_of
from splitfed.privacy.mechanism import HEAD_ROUNDS
from splitfed.run.agreed import Agreed, agree_on_model
from splitfed.run.fusing import AgreedFusion
from splitfed.run.learner import PartyData
from splitfed.run.private import PrivateLearner, federated_model, noised_head
from splitfed.run.spending import Account, released_epsilon
from splitfed.sharing import named_tensors, split_model
from splitfed.store import Budget, ReleaseRow
from splitfed.tensors import digest
from tests.config.test_privacy_section import read
from tests.support.privacy import (
    CLASSES,
    image_set,
    images_of,
    mechanism,
    small_net,
    watch,
    with_record,
)

HEAD = Spend(sample_rate=1.0, noise_multiplier=3.0, steps=2)


def quiet(*step: Any) -> None:
    """Nobody listens."""


class FixedStream:
    """Noise that can be foretold, so that two learners can be compared byte for byte."""

    def __init__(self) -> None:
        self._draw = torch.Generator().manual_seed(5)

    def mask(self, rate: float, count: int) -> Any:
        return (torch.rand(count, generator=self._draw) < rate).numpy()

    def gaussian(self, count: int) -> Any:
        return torch.randn(count, generator=self._draw, dtype=torch.float64).numpy()


def learner_of(mode: str, public_head: bool = False) -> PrivateLearner:
    terms = mechanism(mode)
    if mode == "dp-frozen":
        terms = replace(terms, fusion=HEAD, fusions=1)
    model = small_net()
    agreed = Agreed(
        terms=None,
        model=agree_on_model(small_net(), None, None),
        classes=CLASSES,
        seed=7,
        factory="",
        document="",
        roster=b"",
        roster_document="",
        records={"a": 24},
        size=(1, 6, 6),
        mechanism=terms,
        public_head=public_head,
    )
    split = split_model(model)
    federated = federated_model(model, split, agreed)
    return PrivateLearner(
        model,
        federated=federated,
        federated_split=split_model(federated, shared=sorted(split.shared_names)),
        mechanism=terms,
        records=24,
        split=split,
        data=PartyData(
            train=image_set(images_of(24)),
            validation=image_set(images_of(9, seed=50)),
            test=image_set(images_of(9, seed=51)),
            reference=image_set(images_of(12, seed=52)).without_labels(),
        ),
        settings=TrainingConfig(batch_size=8),
        classes=CLASSES,
        seed=7,
        party="a",
        rounds=2,
        acceptance=True,
        fusion=AgreedFusion(method="distill", reference_size=12),
    )


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_what_is_released_is_never_what_the_personal_model_says(mode: str) -> None:
    learner = learner_of(mode)
    learner.train(1, quiet)
    learner.fit()
    learner.prepare("outputs", True, quiet)
    personal = learner._outputs(learner.model)
    assert not torch.allclose(learner.outgoing()["outputs"], personal["outputs"], atol=1e-3)


@pytest.mark.parametrize("mode", ["dp-frozen", "dp-all"])
def test_the_personal_track_changes_no_bit_of_what_is_released(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitfed.training.private.Keystream", FixedStream)
    found = []
    for spoil in (False, True):
        learner = learner_of(mode)
        learner.train(1, quiet)
        if spoil:
            learner.fit()
            with torch.no_grad():
                for parameter in (*learner.model.parameters(), *learner.baseline.parameters()):
                    parameter.add_(100.0)
        learner.prepare("outputs", True, quiet)
        found.append(digest(learner.outgoing()))
    assert found[0] == found[1]


def test_fitting_the_head_moves_the_last_private_layer_and_nothing_else() -> None:
    learner = learner_of("dp-frozen")
    learner.train(1, quiet)
    before = {n: t.clone() for n, t in named_tensors(learner.federated).items()}
    head = noised_head(
        learner.federated, learner._head_trainer, learner._mechanism, learner.split, quiet
    )
    after = named_tensors(head)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"classifier.weight", "classifier.bias"}
    kept = named_tensors(learner.federated)
    assert all(torch.equal(before[name], kept[name]) for name in before)


def test_a_model_without_a_layer_to_fit_is_told_before_anything_is_paid() -> None:
    import splitfed
    from splitfed.errors import ModelError
    from splitfed.privacy.proposal import usual_terms

    terms = usual_terms("dp-frozen", records=1000, outputs=True)
    data = image_set(images_of(24))
    federation = splitfed.Federation(
        model=small_net, shared="*", rounds=1, classes=CLASSES, privacy=terms, fusion="distill",
        reference=image_set(images_of(12)),
    )  # fmt: skip
    seen: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PrivateLearner, "train", lambda *_: seen.append("trained"))
        with pytest.raises(ModelError, match="no private layer that could be fitted"):
            federation.simulate([splitfed.Party(n, data) for n in ("a", "b")])
    assert seen == []


def test_with_a_public_head_that_one_is_fitted() -> None:
    learner = learner_of("dp-frozen", public_head=True)
    learner.train(1, quiet)
    before = {n: t.clone() for n, t in learner.federated.named_parameters()}
    learner.prepare("outputs", True, quiet)
    head = noised_head(
        learner.federated,
        learner._head_trainer,
        learner._mechanism,
        learner._federated.split,
        quiet,
    )
    moved = {n for n, t in head.named_parameters() if not torch.equal(before[n], t)}
    assert moved == {"public_head.weight", "public_head.bias"}


def test_the_head_takes_the_planned_steps_with_its_own_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = learner_of("dp-frozen")
    learner.train(1, quiet)
    steps: list[tuple[int, int]] = []
    seen: list[float] = []
    from splitfed.privacy.optimizer import PrivateOptimizer

    real = PrivateOptimizer.noised_step

    def watched(self: Any) -> None:
        seen.append(self.noise_multiplier)
        real(self)

    monkeypatch.setattr(PrivateOptimizer, "noised_step", watched)
    learner.prepare("outputs", True, lambda done, of, loss: steps.append((done, of)))
    assert seen == [HEAD.noise_multiplier] * HEAD.steps
    assert steps[-1] == (HEAD.steps, HEAD.steps)


def test_epsilon_is_that_of_rounds_and_fusion_together() -> None:
    section = read("dp-frozen", fusion_epsilon=3.0)
    found = mechanism_of(section, rounds=5, records={"a": 1000})
    assert found is not None
    assert found.fusion is not None
    assert found.fusion.steps == HEAD_ROUNDS * found.steps_per_round
    assert epsilon([found.fusion], 1e-5) <= 3.0
    assert found.epsilon(5, 0) < 8.0
    assert 7.9 < found.epsilon() <= 8.0
    assert found.epsilon() == epsilon([found.spend(5), found.fusion], 1e-5)
    alone = mechanism_of(read("dp-frozen"), rounds=5, records={"a": 1000})
    assert alone is not None
    assert found.noise_multiplier > alone.noise_multiplier
    assert "and in the fusion" in found.sentence
    assert found.row()["fusion_epsilon"] == epsilon([found.fusion], 1e-5)


def account(tmp_path: Any, terms: Any) -> tuple[Budget, Account]:
    budget = Budget.open(tmp_path / "budget.sqlite", data_id="d", data_digest=bytes(32))
    return budget, Account(mechanism=terms, party="a", budget=budget)


def row(round: int, kind: str) -> ReleaseRow:
    root = bytes([round]) * 32
    return ReleaseRow(release=root, round=round, kind=kind, tensors=(), root=root, size=0)


def test_outputs_of_a_fitted_head_are_debited_and_those_of_noised_layers_cost_nothing(
    tmp_path: Any,
) -> None:
    frozen = replace(mechanism("dp-frozen"), fusion=HEAD, fusions=1)
    budget, paying = account(tmp_path, frozen)
    with budget:
        paying.debit(b"r" * 32, row(1, "update"))
        paying.debit(b"r" * 32, row(2, "outputs"))
        assert [(d.kind, d.noise_multiplier, d.steps) for d in budget.debits()] == [
            ("update", 1.0, 1),
            ("outputs", HEAD.noise_multiplier, HEAD.steps),
        ]
    assert released_epsilon(frozen, ["update", "outputs"]) == epsilon([frozen.spend(1), HEAD], 1e-5)
    free = mechanism("dp-all")
    (tmp_path / "all").mkdir()
    budget, paying = account(tmp_path / "all", free)
    with budget:
        paying.debit(b"r" * 32, row(1, "update"))
        paying.debit(b"r" * 32, row(2, "outputs"))
        assert [d.steps for d in budget.debits()] == [1, 0]
    assert released_epsilon(free, ["update", "outputs"]) == released_epsilon(free, ["update"])


def clipped_sum(data: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """The clipped sum of the head's first step on ``data``."""
    learner = learner_of("dp-frozen")
    learner._head_trainer.keywords["data"] = image_set(data)
    learner._head_trainer.keywords["records"] = 30
    sums = []

    def trainer(model: Any, *, mechanism: Any) -> Any:
        made = learner._head_trainer(model, mechanism=mechanism)
        sums.append(watch(made).sums)
        return made

    noised_head(learner.federated, trainer, learner._mechanism, learner.split, quiet)
    return sums[0][0]


@pytest.mark.parametrize(
    ("image", "label"),
    [
        (torch.ones(1, 6, 6), 0),
        (torch.ones(1, 6, 6) * 255, 2),
        (torch.full((1, 6, 6), torch.nan), 1),
        (torch.full((1, 6, 6), 1e30), 1),
    ],
)
def test_one_record_moves_the_head_s_sum_by_one_clipping_norm_at_most(
    image: torch.Tensor, label: int
) -> None:
    data = images_of(24)
    one, other = clipped_sum(data), clipped_sum(with_record(data, image, label))
    assert set(one) == {"classifier.weight", "classifier.bias"}
    moved = sum(float((other[name] - one[name]).double().square().sum()) for name in one) ** 0.5
    assert moved <= 1.001
    assert moved > 0.5 or not torch.isfinite(image).all()
