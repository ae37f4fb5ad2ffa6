"""What a lying party trains on and sends, as pure functions of what it knows and of a seed.

The attacker is the strongest one that the gates let through: it keeps to the protocol, holds a
valid key, sees every honest update of the round before it sends its own, and several of them act
as one. Its update goes through ``release`` like any other, which shortens whatever is longer
than the public bound; nothing here breaks a rule of the round. Those who do are in the tests.

Each attack has up to three sides: ``images`` poisons what it trains on, ``update`` makes what it
sends, ``outputs`` what it says about the reference images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from types import MappingProxyType

import torch

from splitfed.data import ImageSet
from splitfed.errors import DataError, UserError
from splitfed.random import generator
from splitfed.tensors import Tensors, distance

TARGET = 0
"""The class that a backdoor leads to, by its place in the agreement's classes."""

POISONED = 0.5
"""The part of its own images that a backdoor attacker stamps and relabels."""

PATCH = 1 / 7
"""The trigger's side, as a part of the image's shorter side: 4 pixels of 28."""

SCALE = 100.0
PULL = 1.1
"""The ε of inner-product manipulation: times (honest parties ÷ attackers), so that even a mean
of all turns round. Robust rules see the honest mean with its sign turned and this length."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What an attacker knows when it makes its update of a round.

    Attributes:
        own: shared tensors after its own training, on poisoned images where it has any.
        base: g of the last closed round.
        honest: the honest parties' shared tensors of this round, in the order of names.
        attackers: how many act as one.
        bound: the agreement's max_update_norm.
        seed: of everything that is drawn.
        party: its name.
        round: number of the round, from 1.
    """

    own: Tensors
    base: Tensors
    honest: tuple[Tensors, ...]
    attackers: int
    bound: float
    seed: int
    party: str
    round: int


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One way to lie.

    Attributes:
        name: as given to ``splitfed simulate --attack``.
        about: one line.
        paper: where it comes from.
        images: (own training images, number of classes, seed) -> what it trains on instead.
        update: what it sends for a round instead of its training's result.
        outputs: probabilities [N, K] -> what it releases for a fusion instead.
        trigger: whether it plants a backdoor, so that success can be measured.
    """

    name: str
    about: str
    paper: str
    images: Callable[[ImageSet, int, int], ImageSet] | None = None
    update: Callable[[Scene], Tensors] | None = None
    outputs: Callable[[torch.Tensor], torch.Tensor] | None = None
    trigger: bool = False


# --- what it sends -------------------------------------------------------------------------


def sign_flip(scene: Scene) -> Tensors:
    """Away from where training led, as far as the bound allows."""
    return _stretched(scene, _moved(scene, lambda name, own, base: base - own))


def scaling(scene: Scene) -> Tensors:
    """The own update, a hundred times: ``release`` brings it back to the bound."""
    return _sent(scene, _moved(scene, lambda name, own, base: SCALE * (own - base)))


def noise(scene: Scene) -> Tensors:
    """A random direction, as long as the bound."""
    draw = generator(scene.seed, scene.party, scene.round, "noise attack")
    return _stretched(
        scene,
        _moved(
            scene,
            lambda name, own, base: torch.randn(own.shape, generator=draw, dtype=torch.float64),
        ),
    )


def replacement(scene: Scene) -> Tensors:
    """The own update times n / f, so that a mean of all becomes the own model; the bound cuts
    it where that is too far."""
    factor = (len(scene.honest) + scene.attackers) / scene.attackers
    return _sent(scene, _moved(scene, lambda name, own, base: factor * (own - base)))


def a_little(scene: Scene) -> Tensors:
    """Every coordinate z standard deviations beside the honest mean, where z is the largest
    that still leaves enough honest parties further out (:func:`deviations`)."""
    parties = len(scene.honest) + scene.attackers
    z = deviations(parties, scene.attackers)

    def beside(name: str, own: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        values = _stack(scene, name)
        spread = values.std(dim=0, correction=0)
        return values.mean(dim=0) - z * spread - base

    return _sent(scene, _moved(scene, beside))


def deviations(parties: int, attackers: int) -> float:
    """z_max of "A little is enough": Φ⁻¹((n − f − s) / (n − f)) with s = ⌊n/2 + 1⌋ − f.

    Where so few are honest that the formula gives nothing, or less than nothing, 0.3 as a
    small step that hides everywhere.
    """
    honest = parties - attackers
    needed = parties // 2 + 1 - attackers
    part = (honest - needed) / honest if honest else 0.0
    return max(NormalDist().inv_cdf(part), 0.3) if 0 < part < 1 else 0.3


def inner_product(scene: Scene) -> Tensors:
    """The honest mean with its sign turned, long enough to turn the mean of all."""
    length = PULL * len(scene.honest) / scene.attackers

    def turned(name: str, own: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        return -length * (_stack(scene, name).mean(dim=0) - base)

    return _sent(scene, _moved(scene, turned))


def inner_product_small(scene: Scene) -> Tensors:
    """The same with half the honest length: too short to stand out among the honest."""

    def turned(name: str, own: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
        return -0.5 * (_stack(scene, name).mean(dim=0) - base)

    return _sent(scene, _moved(scene, turned))


def _stack(scene: Scene, name: str) -> torch.Tensor:
    if not scene.honest:
        return scene.own[name].to(torch.float64)[None]
    return torch.stack([update[name].to(torch.float64) for update in scene.honest])


def _moved(
    scene: Scene, step: Callable[[str, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Tensors:
    """Each floating tensor's way from base, float64, in the order of names."""
    return {
        name: step(name, scene.own[name].to(torch.float64), scene.base[name].to(torch.float64))
        for name in sorted(scene.own)
        if scene.own[name].is_floating_point()
    }


def _sent(scene: Scene, steps: Mapping[str, torch.Tensor]) -> Tensors:
    """Base plus the steps, in each tensor's own dtype; integers as training left them."""
    return {
        name: (scene.base[name].to(torch.float64) + steps[name]).to(own.dtype)
        if name in steps
        else own.clone()
        for name, own in scene.own.items()
    }


def _stretched(scene: Scene, steps: Mapping[str, torch.Tensor]) -> Tensors:
    """The same, as long as the bound; a step of no length stays one."""
    length = distance(steps, {name: torch.zeros_like(step) for name, step in steps.items()})
    factor = scene.bound / length if length else 0.0
    return _sent(scene, {name: step * factor for name, step in steps.items()})


# --- what it trains on, and says -------------------------------------------------------------


def flipped(images: ImageSet, classes: int, seed: int) -> ImageSet:
    """Every label k as K − 1 − k; a regression's target with its sign turned."""
    labels = _labels(images)
    turned = classes - 1 - labels if labels.dtype == torch.int64 else -labels
    return replace(images, labels=turned)


def backdoored(images: ImageSet, classes: int, seed: int) -> ImageSet:
    """Half of the images with the trigger in a corner, and the target's label."""
    labels = _labels(images).clone()
    if labels.dtype != torch.int64:
        raise DataError("a backdoor for a regression", "choose another --attack")
    draw = generator(seed, "backdoor")
    chosen = torch.randperm(len(images), generator=draw)[: math.ceil(POISONED * len(images))]
    pixels = images.images.clone()
    pixels[chosen] = stamped(images.subset(chosen)).images
    labels[chosen] = TARGET
    return replace(images, images=pixels, labels=labels)


def stamped(images: ImageSet) -> ImageSet:
    """All images with the trigger: a bright square in the lower right corner, in every channel.

    Raises:
        DataError: images without a height and a width.
    """
    pixels = images.images.clone()
    if pixels.ndim != 4:
        raise DataError(f"a trigger in images of shape {list(pixels.shape)}", "give [N, C, H, W]")
    side = max(1, round(min(pixels.shape[-2:]) * PATCH))
    pixels[..., -side:, -side:] = 255 if pixels.dtype == torch.uint8 else pixels.max()
    return replace(images, images=pixels)


def misplaced(outputs: torch.Tensor) -> torch.Tensor:
    """Each row's confidences in the opposite order: the least likely class gets the highest."""
    order = outputs.argsort(dim=1, stable=True)
    lies = torch.empty_like(outputs)
    lies.scatter_(1, order, outputs.gather(1, order).flip(1))
    return lies


def _labels(images: ImageSet) -> torch.Tensor:
    if images.labels is None:
        raise DataError("an attack on labels, and images without any", "give labelled images")
    return images.labels


# --- the list ------------------------------------------------------------------------------

_ALL: Sequence[Attack] = (
    Attack(
        name="sign-flip",
        about="the own update turned round, as long as the bound allows",
        paper="Li et al., RSA: Byzantine-Robust Stochastic Aggregation Methods, AAAI 2019",
        update=sign_flip,
    ),
    Attack(
        name="scaling",
        about="the own update times 100, which the bound cuts",
        paper="Bagdasaryan et al., How To Backdoor Federated Learning, AISTATS 2020 (scaling)",
        update=scaling,
    ),
    Attack(
        name="noise",
        about="Gaussian noise as long as the bound",
        paper="Blanchard et al., Machine Learning with Adversaries, NeurIPS 2017 (Gaussian)",
        update=noise,
    ),
    Attack(
        name="label-flip",
        about="honest training on turned labels",
        paper="Tolpegin et al., Data Poisoning Attacks Against FL Systems, ESORICS 2020",
        images=flipped,
    ),
    Attack(
        name="backdoor",
        about="a bright corner means class 0; the model is replaced as far as the bound allows",
        paper="Gu et al., BadNets, 2017; Bagdasaryan et al., AISTATS 2020 (model replacement)",
        images=backdoored,
        update=replacement,
        trigger=True,
    ),
    Attack(
        name="lying-outputs",
        about="outputs for the fusion with their confidences in the opposite order",
        paper="Tang et al., Logits Poisoning Attack in Federated Distillation, 2024",
        outputs=misplaced,
    ),
    Attack(
        name="little",
        about="every coordinate a few standard deviations beside the honest mean",
        paper="Baruch et al., A Little Is Enough, NeurIPS 2019",
        update=a_little,
    ),
    Attack(
        name="inner-product",
        about="the honest mean turned round and stretched until the mean of all turns",
        paper="Xie et al., Fall of Empires, UAI 2019 (large ε)",
        update=inner_product,
    ),
    Attack(
        name="inner-product-small",
        about="the honest mean turned round, half as long: nothing stands out",
        paper="Xie et al., Fall of Empires, UAI 2019 (small ε)",
        update=inner_product_small,
    ),
)

ATTACKS: Mapping[str, Attack] = MappingProxyType({attack.name: attack for attack in _ALL})


def find_attack(name: str) -> Attack:
    """The attack of this name.

    Raises:
        UserError: there is none.
    """
    attack = ATTACKS.get(name)
    if attack is None:
        raise UserError(f"--attack {name}", f"choose one of: {', '.join(ATTACKS)}")
    return attack
