"""Attackers in a simulated federation: they see the honest first, and only they lie."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from splitfed import Federation, Party
from splitfed.config import TrainingConfig
from splitfed.errors import UserError
from splitfed.simulation import Stage, find_attack
from splitfed.simulation.attacks import Attack, Scene
from splitfed.simulation.trial import play, undisturbed, with_trigger
from splitfed.tensors import Tensors, digest
from tests.support.data import tiny_set

CLASSES = ("0", "1", "2")


def federation(**changes) -> Federation:
    fields = {
        "model": "splitfed.models:ThreeLayerCNN", "rounds": 2, "classes": CLASSES,
        "arguments": {"channels": 1, "classes": 3, "size": [8, 8], "widths": [2, 2, 2]},
        "privacy": "none", "shared": "*",
        "training": TrainingConfig(batch_size=8, lr=0.01),
    }  # fmt: skip
    return Federation(**{**fields, **changes})


def party(name: str, seed: int, **more) -> Party:
    images = tiny_set(24, size=(8, 8), seed=seed)
    return Party(name, images, tiny_set(12, size=(8, 8), seed=seed + 10), **more)


PARTIES = [party("a", 1), party("b", 2), party("c", 3)]
TEST = tiny_set(30, size=(8, 8), seed=7)


def test_an_attacker_sees_every_honest_update_and_what_was_agreed_on_before() -> None:
    seen: list[Scene] = []

    def spying(scene: Scene) -> Tensors:
        seen.append(scene)
        return scene.own

    spy = Attack(name="spy", about="", paper="", update=spying)
    federation().simulate([*PARTIES[:2], party("c", 3, attack=spy)])
    assert [(scene.round, len(scene.honest), scene.attackers) for scene in seen] == [
        (1, 2, 1), (2, 2, 1),
    ]  # fmt: skip
    mean = {
        name: (seen[0].own[name] + seen[0].honest[0][name] + seen[0].honest[1][name]) / 3
        for name in seen[0].own
    }
    for name, tensor in seen[1].base.items():
        assert torch.allclose(tensor, mean[name], atol=1e-6), name


def test_without_attackers_nobody_s_learner_is_replaced_and_results_are_as_ever() -> None:
    stage = Stage()
    plain = federation().simulate(PARTIES)
    staged = federation().simulate(PARTIES, stage=stage)
    assert plain["a"]["shared_digest"] == staged["a"]["shared_digest"]
    assert sorted(stage.learners) == ["a", "b", "c"]


def test_an_attack_on_the_mean_spoils_it_and_is_bounded_and_repeats_itself() -> None:
    attack = find_attack("sign-flip")
    one, two = (
        play(federation(), PARTIES, test=TEST, attack=attack, attackers=1) for _ in range(2)
    )
    assert one == two
    assert sorted(one.parties) == ["a", "b"]
    alone = undisturbed(federation(), PARTIES, test=TEST, attack=attack, attackers=1)
    assert sorted(alone.parties) == ["a", "b"]
    assert one.rejected == {"a": [], "b": []}


def test_poisoned_images_are_the_attackers_alone() -> None:
    stage = Stage()
    lying = [*PARTIES[:2], replace(PARTIES[2], attack=find_attack("label-flip"))]
    federation(rounds=1).simulate(lying, stage=stage)
    for name, changed in (("a", False), ("b", False), ("c", True)):
        labels = stage.learners[name].data.train.labels
        own = next(p for p in PARTIES if p.name == name).train.labels
        assert torch.equal(labels, own) is not changed


def test_lying_outputs_pass_the_gate_and_only_the_liar_s_are_others() -> None:
    fusing = federation(rounds=1, fusion="distill", reference=tiny_set(9, size=(8, 8), seed=5))
    lying, honest = Stage(), Stage()
    liar = replace(PARTIES[2], attack=find_attack("lying-outputs"))
    reports = fusing.simulate([*PARTIES[:2], liar], stage=lying)
    fusing.simulate(PARTIES, stage=honest)
    for name in "ab":  # the rounds are those of honest parties: only what is fused is spoilt
        assert reports[name]["faults"]["rejected"] == []
        one, other = lying.learners[name], honest.learners[name]
        assert digest(one.model.state_dict()) == digest(other.model.state_dict())
        assert one.fused is not None
        assert other.fused is not None
        assert digest(one.fused.state_dict()) != digest(other.fused.state_dict())


def test_a_federation_of_attackers_alone_is_refused() -> None:
    lying = [replace(p, attack=find_attack("noise")) for p in PARTIES]
    with pytest.raises(UserError, match="every party attacks"):
        federation().simulate(lying)


# --- what a trial compares with, and what it measures ----------------------------------------


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The reports of every federation that is simulated."""
    real, seen = Federation.simulate, []

    def watched(self: Federation, *args: Any, **more: Any) -> dict[str, Any]:
        seen.append(real(self, *args, **more))
        return seen[-1]

    monkeypatch.setattr(Federation, "simulate", watched)
    return seen


def ends(reports: dict[str, Any]) -> dict[str, str]:
    return {name: report["shared_digest"] for name, report in reports.items()}


def test_undisturbed_is_the_mean_of_the_honest_alone(played: list[dict[str, Any]]) -> None:
    """Whatever rule is to stand the attackers, and however many parties it wants."""
    attack = find_attack("label-flip")
    four = [*PARTIES, party("d", 4)]
    guarded = federation(rule="median", byzantine=1, minimum_parties=4)
    found = undisturbed(guarded, four, test=TEST, attack=attack, attackers=1)
    alone = play(federation(), PARTIES, test=TEST)
    guarded.simulate(four)
    federation(rule="median").simulate(PARTIES)
    undisturbed_ends, by_mean, with_all, by_median = map(ends, played)
    assert undisturbed_ends == by_mean
    assert by_mean["a"] not in (with_all["a"], by_median["a"])
    figures = ("shared", "personal", "local_only", "kept")
    assert {name: [row[f] for f in figures] for name, row in found.parties.items()} == {
        name: [row[f] for f in figures] for name, row in alone.parties.items()
    }


def test_undisturbed_one_honest_party_has_honest_company_and_is_measured_alone(
    played: list[dict[str, Any]],
) -> None:
    attack = find_attack("sign-flip")
    found = undisturbed(federation(), PARTIES[:2], test=TEST, attack=attack, attackers=1)
    federation().simulate(PARTIES[:2])
    assert ends(played[0]) == ends(played[1])
    assert list(found.parties) == ["a"]


def test_images_with_the_trigger_are_those_of_other_classes_with_a_bright_corner() -> None:
    test = tiny_set(30, size=(14, 21), channels=3, seed=7)
    assert test.labels is not None
    others = [place for place, label in enumerate(test.labels.tolist()) if label != 0]
    expected = test.images[others].clone()
    expected[:, :, 12:, 19:] = 255  # a seventh of the shorter side
    found = with_trigger(test)
    assert found.labels is not None
    assert torch.equal(found.images, expected)
    assert found.labels.tolist() == [1, 2] * 10
    assert torch.equal(test.images, tiny_set(30, size=(14, 21), channels=3, seed=7).images)


class Cornered(nn.Module):
    """Class 0 where the lower right corner is bright, class 1 where it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((3,), 8.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        bright = (images[:, 0, -1, -1] > 0.5).float()
        return self.scale * torch.stack([bright, 1 - bright, torch.zeros_like(bright)], dim=1)


@pytest.mark.parametrize(("attack", "rate"), [("backdoor", 1.0), ("sign-flip", None)])
def test_a_backdoor_s_success_is_measured_with_the_trigger_and_only_where_one_is_planted(
    attack: str, rate: float | None
) -> None:
    trial = {"test": TEST, "attack": find_attack(attack), "attackers": 1}
    seeing = federation(model=Cornered, arguments={}, rounds=1, acceptance=True)
    for found in (play(seeing, PARTIES, **trial), undisturbed(seeing, PARTIES, **trial)):
        for row in found.parties.values():
            assert [row[key] for key in row if key.startswith("backdoor")] == [rate] * 3
            assert row["local_only"] == 1 / 3  # no image of the test has such a corner
