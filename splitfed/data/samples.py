"""Images one by one from a torch Dataset, whatever it hands out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from splitfed.data.arrays import Array, fit_images
from splitfed.data.preprocessing import Fitting
from splitfed.errors import DataError


def read_samples(
    dataset: Any, fitting: Fitting, where: str
) -> tuple[torch.Tensor, list[Any], list[Any] | None]:
    """Every sample ``(image, label)`` or ``(image, label, group)`` of a map-style dataset.

    An image is a PIL image, an array [H, W] or [H, W, C], or a tensor [C, H, W] or [H, W].

    Returns:
        Images [N, C, H, W], labels and groups as they came (no groups: None).

    Raises:
        DataError: a sample of another form, or an image that does not fit the agreement.
    """
    rows: list[Array] = []
    labels: list[Any] = []
    groups: list[Any] = []
    for place in range(len(dataset)):
        name = f"{where}, image {place}"
        try:
            sample = dataset[place]
        except Exception as problem:  # foreign code, foreign files
            raise DataError(
                f"{name}: {type(problem).__name__}: {problem}", "mend or remove it"
            ) from problem
        if not isinstance(sample, tuple | list) or len(sample) not in (2, 3):
            raise DataError(f"{name}: not a sample", "give (image, label) or (image, label, group)")
        rows.append(_row(sample[0], fitting, where, place))
        labels.append(_plain(sample[1]))
        if len(sample) == 3:
            groups.append(_plain(sample[2]))
    if not rows:
        raise DataError(f"{where}: no images at all", "point at a set that is not empty")
    if groups and len(groups) != len(rows):
        raise DataError(
            f"{where}: some samples have a group and some have none", "give all or none"
        )
    if len({row.dtype for row in rows}) > 1:
        raise DataError(f"{where}: some images are uint8 and some float", "give one kind")
    return torch.from_numpy(np.stack(rows)), labels, groups or None


def channels_last(images: torch.Tensor) -> Array:
    """A tensor [..., C, H, W] as an array [..., H, W, C]."""
    array: Array = images.detach().cpu().numpy()
    return np.moveaxis(array, -3, -1)


def _row(image: Any, fitting: Fitting, where: str, place: int) -> Array:
    if isinstance(image, torch.Tensor):
        image = channels_last(image) if image.ndim == 3 else image.detach().cpu().numpy()
    if isinstance(image, np.ndarray):
        row: Array = fit_images(image[None], fitting, where, place)[0].numpy()
        return row
    if hasattr(image, "convert") and hasattr(image, "mode"):
        return fitting.picture(image, f"{where}, image {place}")
    raise DataError(
        f"{where}, image {place}: an image of type {type(image).__name__}",
        "give a PIL image, a numpy array or a tensor",
    )


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, torch.Tensor | np.ndarray | np.generic) else value
