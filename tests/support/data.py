"""A tiny set of images that any model can learn in an epoch or two, made on the spot."""

from __future__ import annotations

import torch

from splitfed.data import ImageSet
from splitfed.random import generator


def tiny_set(
    records: int = 60,
    *,
    classes: int = 3,
    size: tuple[int, int] = (28, 28),
    channels: int = 1,
    seed: int = 0,
    noise: int = 40,
) -> ImageSet:
    """Images whose class is the place of a bright square; labels go round 0, 1, 2, 0, ...

    ``size`` must be large enough for a grid with a cell per class; ``noise`` is the largest
    grey value of the noise all over the image (the square has 200 and more).
    """
    height, width = size
    columns = next(n for n in range(1, classes + 1) if n * n >= classes)
    cell_h, cell_w = height // columns, width // columns
    labels = torch.arange(records) % classes
    draw = generator(seed, "tiny set", records)
    images = torch.randint(0, noise + 1, (records, channels, height, width), generator=draw)
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = label // columns * cell_h, label % columns * cell_w
        image[:, top : top + cell_h, left : left + cell_w] += 200
    constants = torch.full((channels,), 0.5)
    return ImageSet(
        images=images.clamp_(max=255).to(torch.uint8),
        labels=labels,
        mean=constants,
        std=constants.clone(),
    )
