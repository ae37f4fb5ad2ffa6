"""Arrays and labels as they come from files and functions, checked and made to fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitfed.data.preprocessing import Fitting
from splitfed.errors import DataError

Array = NDArray[Any]


def fit_images(images: Array, fitting: Fitting, where: str, first: int = 0) -> torch.Tensor:
    """A stack of images as the agreement wants it.

    Args:
        images: uint8 or float32 [N, H, W], [N, H, W, 1] or [N, H, W, 3]. Floats count as
            ready for the model: they are neither scaled nor converted.
        fitting: what is wanted, and which conversions are declared.
        where: the source, for messages.
        first: the number of the first image in its source, for messages.

    Returns:
        [N, C, H, W] of the same dtype.

    Raises:
        DataError: no image, another shape or dtype, a value that is not finite, or a size or
            number of channels that differs from the agreement without a declared conversion.
    """
    if len(images) == 0:
        raise DataError(f"{where}: no images at all", "point at a set that is not empty")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] not in (1, 3)):
        raise DataError(
            f"{where}: images of shape {list(images.shape)}",
            "give [N, H, W] for grey or [N, H, W, 3] for colour; in a tensor, channels come first",
        )
    wanted = fitting.preprocessing
    stack = images[..., None] if images.ndim == 3 else images
    fits = stack.shape[1:] == (*wanted.size, wanted.channels)
    if images.dtype == np.float32:
        _refuse_infinite(images, where, first)
        if not fits:
            raise DataError(
                f"{where}: float images of {list(stack.shape[1:])} (height, width, channels), "
                f"the agreement says {[*wanted.size, wanted.channels]}",
                "floats are taken as they are: prepare them in that shape",
            )
    elif images.dtype != np.uint8:
        raise DataError(
            f"{where}: images of {images.dtype}",
            "store uint8 pixels, or float32 values that are ready for the model",
        )
    elif not fits:
        rows = [fitting.pixels(row, f"{where}, image {i}") for i, row in enumerate(images, first)]
        return torch.from_numpy(np.stack(rows))
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(stack, 3, 1)))


def fit_labels(labels: Any, count: int, classes: Sequence[str], where: str) -> torch.Tensor:
    """Labels as positions in ``classes``, int64 [N]; float32 [N] for a regression.

    Args:
        labels: [N] or [N, 1]: whole numbers are positions in ``classes``, texts are names of
            classes; any finite numbers for a regression, which has no ``classes``.
        count: the number of images.
        classes: the agreement's.
        where: the source, for messages.

    Raises:
        DataError: a label that means none of the classes, or not one label per image.
    """
    values = _column(labels, where)
    if values.ndim == 2:
        raise DataError(
            f"{where}: {values.shape[1]} labels per image", "choose one class for each image"
        )
    if values.shape != (count,):
        raise DataError(
            f"{where}: labels of shape {list(values.shape)} for {count} images",
            "give one label per image",
        )
    if not classes:
        if values.dtype.kind not in "iufb":
            raise DataError(f"{where}: labels of {values.dtype}", "a regression needs numbers")
        numbers = values.astype(np.float32)
        _refuse_infinite(numbers, f"{where}, labels")
        return torch.from_numpy(numbers)
    if values.dtype.kind == "U":
        return by_name([str(name) for name in values], classes, lambda i: f"{where}, image {i}")
    if values.dtype.kind not in "iub":
        raise DataError(
            f"{where}: labels of {values.dtype}",
            "give whole numbers or names of classes; leave `classes` empty for a regression",
        )
    outside = np.flatnonzero((values < 0) | (values >= len(classes)))
    if outside.size:
        first = int(outside[0])
        raise DataError(
            f"{where}, image {first}: label {values[first]}, the agreement has "
            f"{len(classes)} classes ({', '.join(classes)})",
            f"labels must be 0 to {len(classes) - 1}, in the agreement's order",
        )
    return torch.from_numpy(values.astype(np.int64))


def by_name(
    names: Sequence[str], classes: Sequence[str], where: Callable[[int], str]
) -> torch.Tensor:
    """Positions of the named classes in the agreement's order, int64 [N].

    Raises:
        DataError: a name that is not a class, with ``where`` of its place.
    """
    position = {name: place for place, name in enumerate(classes)}
    for place, name in enumerate(names):
        if name not in position:
            raise DataError(
                f"{where(place)}: class {name!r} is not in the agreement ({', '.join(classes)})",
                "use the agreement's names, or agree on other classes",
            )
    return torch.tensor([position[name] for name in names], dtype=torch.int64)


def fit_groups(groups: Any, count: int, where: str) -> tuple[str, ...]:
    """Patients (or other units) as texts, one per image.

    Raises:
        DataError: not one whole number or text per image.
    """
    values = _column(groups, where)
    if values.shape != (count,) or values.dtype.kind not in "iuU":
        raise DataError(
            f"{where}: groups of {values.dtype} and shape {list(values.shape)} for {count} images",
            "give one text or whole number per image",
        )
    return tuple(str(value) for value in values)


def _column(values: Any, where: str) -> Array:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal length
        raise DataError(
            f"{where}: some images have more labels or groups than others", "give each image one"
        ) from None
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _refuse_infinite(values: Array, where: str, first: int = 0) -> None:
    finite = np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{where}, image {first + int(np.argmin(finite))}: NaN or infinity", "mend or remove it"
        )
