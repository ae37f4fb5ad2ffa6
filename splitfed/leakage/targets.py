"""The images whose updates are attacked, and what the attacker has to begin with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from splitfed.data import ImageSet
from splitfed.leakage.inversion import Known
from splitfed.leakage.subject import Subject
from splitfed.random import generator

CROWD = 500
"""Images of its class among which a reconstruction must be nearest to its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Target:
    """One update's images in all their forms; and for each, further training images of its class,
    from which a reconstruction has to tell it."""

    images: ImageSet
    known: Known
    true: Tensor
    guess: Tensor
    others: list[Tensor]


def targets_of(
    subject: Subject, attacker: ImageSet, *, count: int, behind: int, seed: int
) -> Iterator[Target]:
    """The images of ``count`` updates with ``behind`` images each, drawn from the training images.

    Args:
        attacker: labelled images that are the attacker's own.
    """
    train = subject.train
    assert train.labels is not None  # the subject was checked
    assert attacker.labels is not None
    wanted = min(count * behind, len(train))
    order = torch.randperm(len(train), generator=generator(seed, "targets"))[:wanted]
    everything, _ = attacker.batch(torch.arange(len(attacker)))
    low, high = _range(train)
    for start in range(0, wanted, behind):
        places = order[start : start + behind]
        images, labels = train.batch(places)
        assert labels is not None
        guess = torch.stack([_mean(everything, attacker.labels == label) for label in labels])
        known = Known(labels=labels, guess=guess, low=low, high=high)
        yield Target(
            images=train.subset(places),
            known=known,
            true=pixels(images, known),
            guess=pixels(guess, known),
            others=[_others(train, place, known) for place in places.tolist()],
        )


def _others(train: ImageSet, place: int, known: Known) -> Tensor:
    """Further training images of the class, :data:`CROWD` at most and none equal, as pixels."""
    assert train.labels is not None  # the subject was checked
    own = train.images[place]
    same = torch.nonzero(train.labels == train.labels[place]).flatten()[: CROWD + 1]
    chosen = [other for other in same.tolist() if not torch.equal(train.images[other], own)]
    images, _ = train.batch(torch.tensor(chosen, dtype=torch.int64))
    return pixels(images, known)


def _mean(images: Tensor, of_class: Tensor) -> Tensor:
    """The mean image of a class, or of all where there is none of it."""
    return images[of_class].mean(0) if bool(of_class.any()) else images.mean(0)


def _range(data: ImageSet) -> tuple[Tensor, Tensor]:
    """Values of a black and a white pixel as the model sees them; of images that were given as
    numbers, the least and the largest."""
    if data.mean is not None and data.std is not None and not data.images.is_floating_point():
        mean, std = data.mean[:, None, None], data.std[:, None, None]
        return (0 - mean) / std, (1 - mean) / std
    low, high = data.images.amin((0, 2, 3)), data.images.amax((0, 2, 3))
    return low[:, None, None].float(), torch.maximum(high, low + 1e-6)[:, None, None].float()


def pixels(images: Tensor, known: Known) -> Tensor:
    """[N, C, H, W] as the model sees them, on the scale 0 to 1."""
    return ((images - known.low) / (known.high - known.low)).clamp(0, 1)
