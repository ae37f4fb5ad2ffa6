"""Attacks as pure functions: what each sends, and that the gate lets it through as it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from splitfed.data import ImageSet
from splitfed.errors import DataError, UserError
from splitfed.rounds.checks import update_norm
from splitfed.rounds.gates import shorten
from splitfed.simulation.attacks import (
    ATTACKS,
    PATCH,
    POISONED,
    TARGET,
    Scene,
    a_little,
    backdoored,
    deviations,
    find_attack,
    flipped,
    inner_product,
    misplaced,
    replacement,
    sign_flip,
    stamped,
)
from splitfed.tensors import Tensors, digest

BOUND = 5.0
BASE: Tensors = {"w": torch.ones(50), "n": torch.tensor(7)}


def update(seed: int, length: float = 0.1) -> Tensors:
    draw = torch.Generator().manual_seed(seed)
    return {"w": 1.0 + length * (1.0 + torch.randn(50, generator=draw)), "n": torch.tensor(9)}


def scene(honest: int = 6, attackers: int = 1, **changes) -> Scene:
    fields = {
        "own": update(99), "base": BASE, "honest": tuple(update(i) for i in range(honest)),
        "attackers": attackers, "bound": BOUND, "seed": 3, "party": "m", "round": 2,
    }  # fmt: skip
    return Scene(**{**fields, **changes})


SENDERS = [name for name, attack in ATTACKS.items() if attack.update is not None]


def way(sent: Tensors) -> torch.Tensor:
    return sent["w"].double() - BASE["w"].double()


@pytest.mark.parametrize("name", SENDERS)
def test_what_is_sent_keeps_its_names_shapes_and_integers_and_passes_the_gate(name: str) -> None:
    make = ATTACKS[name].update
    assert make is not None
    sent = make(scene())
    assert {n: (t.shape, t.dtype) for n, t in sent.items()} == {
        n: (t.shape, t.dtype) for n, t in scene().own.items()
    }
    assert int(sent["n"]) == 9
    assert torch.isfinite(sent["w"]).all()
    left, _ = shorten(sent, BASE, BOUND)
    assert 0 < update_norm(left, BASE) <= BOUND


@pytest.mark.parametrize("name", SENDERS)
def test_the_same_scene_gives_the_same_bytes_and_nothing_in_it_is_changed(name: str) -> None:
    make = ATTACKS[name].update
    assert make is not None
    one = scene()
    before = [digest(t) for t in (one.own, one.base, *one.honest)]
    assert digest(make(one)) == digest(make(scene()))
    assert [digest(t) for t in (one.own, one.base, *one.honest)] == before


def test_noise_differs_by_party_round_and_seed() -> None:
    make = ATTACKS["noise"].update
    assert make is not None
    sent = {digest(make(scene(**c))) for c in ({}, {"seed": 4}, {"party": "o"}, {"round": 3})}
    assert len(sent) == 4


def test_sign_flip_goes_the_opposite_way_as_long_as_the_bound() -> None:
    sent = way(sign_flip(scene()))
    honest = way(scene().own)
    assert torch.nn.functional.cosine_similarity(sent, honest, dim=0) == pytest.approx(-1, abs=1e-6)
    assert float(sent.norm()) == pytest.approx(BOUND, rel=1e-5)


def test_a_replaced_model_is_what_the_mean_of_all_becomes_where_others_stand_still() -> None:
    still = tuple(dict(BASE) for _ in range(6))
    moved = way(replacement(replace(scene(), honest=still)))
    assert torch.allclose(moved / 7, way(scene().own), atol=1e-6)


def test_a_little_lies_z_deviations_beside_the_honest_mean() -> None:
    one = scene(honest=8, attackers=2)
    values = torch.stack([u["w"].double() for u in one.honest])
    expected = values.mean(0) - deviations(10, 2) * values.std(0, correction=0)
    assert torch.allclose(a_little(one)["w"].double(), expected, atol=1e-6)


@pytest.mark.parametrize(("parties", "attackers"), [(50, 24), (51, 24)])
def test_z_is_that_of_the_paper(parties: int, attackers: int) -> None:
    # n = 50, m = 24: s = 25 + 1 - 24 = 2 and Φ⁻¹((50 - 24 - 2) / (50 - 24)) = Φ⁻¹(24 / 26)
    part = (parties - attackers - (parties // 2 + 1 - attackers)) / (parties - attackers)
    normal = torch.distributions.Normal(0.0, 1.0)
    assert deviations(parties, attackers) == pytest.approx(
        float(normal.icdf(torch.tensor(part))), abs=1e-4
    )


@pytest.mark.parametrize(("parties", "attackers"), [(2, 1), (7, 1), (7, 6)])
def test_z_is_a_small_step_where_the_formula_gives_none(parties: int, attackers: int) -> None:
    assert deviations(parties, attackers) >= 0.3


@pytest.mark.parametrize(("honest", "attackers"), [(6, 1), (5, 2)])
def test_inner_product_manipulation_turns_the_mean_of_all(honest: int, attackers: int) -> None:
    one = scene(honest=honest, attackers=attackers)
    mean = torch.stack([way(u) for u in one.honest]).mean(0)
    total = (honest * mean + attackers * way(inner_product(one))) / (honest + attackers)
    assert float(total @ mean) < 0


def test_two_parties_leave_an_attacker_with_one_honest_update_or_none() -> None:
    for honest in (0, 1):
        for name in SENDERS:
            make = ATTACKS[name].update
            assert make is not None
            assert torch.isfinite(make(scene(honest=honest))["w"]).all()


# --- images and outputs ----------------------------------------------------------------------


def images(dtype: torch.dtype = torch.uint8) -> ImageSet:
    pixels = torch.zeros(10, 1, 14, 14, dtype=dtype)
    constants = {"mean": torch.zeros(1), "std": torch.ones(1)} if dtype == torch.uint8 else {}
    return ImageSet(images=pixels, labels=torch.arange(10) % 5, **constants)


def test_flipped_labels_are_turned_round_and_images_stay() -> None:
    turned = flipped(images(), 5, 0)
    assert turned.labels is not None
    assert turned.labels.tolist() == [4, 3, 2, 1, 0] * 2
    assert torch.equal(turned.images, images().images)


def test_a_backdoor_stamps_half_of_the_images_and_labels_those_the_target() -> None:
    own = images()
    poisoned = backdoored(own, 5, 1)
    stamps = poisoned.images.flatten(1).amax(dim=1) > 0
    assert int(stamps.sum()) == int(POISONED * 10)
    assert poisoned.labels is not None
    assert own.labels is not None
    assert set(poisoned.labels[stamps].tolist()) == {TARGET}
    assert torch.equal(poisoned.labels[~stamps], own.labels[~stamps])
    assert not own.images.any()
    assert torch.equal(backdoored(own, 5, 1).images, poisoned.images)


def test_the_trigger_is_the_lower_right_corner_and_as_bright_as_can_be() -> None:
    side = round(14 * PATCH)
    stamp = stamped(images()).images
    assert (stamp[..., -side:, -side:] == 255).all()
    assert int((stamp != 0).sum()) == 10 * side * side


def test_a_trigger_needs_pictures_and_a_backdoor_classes() -> None:
    with pytest.raises(DataError, match=r"\[N, C, H, W\]"):
        stamped(ImageSet(images=torch.zeros(3, 4), labels=torch.zeros(3, dtype=torch.int64)))
    regression = ImageSet(images=torch.zeros(3, 1, 8, 8), labels=torch.zeros(3))
    with pytest.raises(DataError, match="regression"):
        backdoored(regression, 0, 0)
    with pytest.raises(DataError, match="without any"):
        flipped(images().without_labels(), 5, 0)


def test_misplaced_outputs_stay_probabilities_and_their_likeliest_class_becomes_the_least() -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.softmax(torch.randn(6, 4, generator=draw, dtype=torch.float64), dim=1)
    lies = misplaced(rows)
    assert torch.allclose(lies.sum(1), torch.ones(6, dtype=torch.float64))
    assert torch.equal(lies.argmax(1), rows.argmin(1))
    assert torch.equal(lies.argmin(1), rows.argmax(1))


def test_every_attack_names_its_paper_and_does_something_and_an_unknown_one_is_refused() -> None:
    for name, attack in ATTACKS.items():
        assert attack.name == name
        assert any(word.isdigit() for word in attack.paper.replace(",", " ").split()), name
        assert attack.images or attack.update or attack.outputs
    with pytest.raises(UserError, match="sign-fip"):
        find_attack("sign-fip")
