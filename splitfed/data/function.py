"""``package.module:function``: images from the party's own code.

The function is called with ``part`` (if it takes one) and the options of the spec and of
party.toml as keyword arguments. It returns ``(images, labels)``, ``(images, labels, groups)``
or a torch Dataset of such samples. As usual in each, channels come first in a tensor
([N, C, H, W]) and last in an array ([N, H, W, C]); grey images may leave them out. For a
regression (no classes in the agreement) float32 [N, features] will do.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch

from splitfed import lookup
from splitfed.data.arrays import fit_groups, fit_images, fit_labels
from splitfed.data.images import ImageSet, image_set
from splitfed.data.request import Request
from splitfed.data.samples import channels_last, read_samples
from splitfed.errors import DataError, UserError


def read(request: Request) -> ImageSet:
    """What the function returns, checked.

    Raises:
        DataError: no such function, arguments it does not take, an exception in it, or a
            result that is not of the form above or does not fit the agreement.
    """
    result = _call(request)
    where = f"{request.location}()"
    groups: Any = None
    if isinstance(result, tuple):
        if len(result) not in (2, 3):
            raise _wrong(where, f"a tuple of {len(result)}")
        images = _images(result[0], request, where)
        labels = result[1]
        groups = result[2] if len(result) == 3 else None
    elif hasattr(result, "__getitem__") and hasattr(result, "__len__"):
        images, labels, groups = read_samples(result, request.fitting, where)
    else:
        raise _wrong(where, f"a {type(result).__name__}")
    fitted = None
    if request.labelled:
        if labels is None:
            raise DataError(f"{where}: no labels", "return (images, labels)")
        fitted = fit_labels(_plain(labels), len(images), request.classes, where)
    return image_set(
        images,
        fitted,
        request.preprocessing,
        groups=None if groups is None else fit_groups(_plain(groups), len(images), where),
    )


def _call(request: Request) -> Any:
    found = lookup.find(request.location, folder=request.root, error=DataError, what="data source")
    if not callable(found):
        raise DataError(f"{request.location} is no function", "name a function")
    options = {**request.options, **request.query}
    arguments = {key: options[key] for key in options if key not in ("part", "convert")}
    signature = inspect.signature(found)
    parameters = signature.parameters.values()
    if "part" in signature.parameters or any(p.kind is p.VAR_KEYWORD for p in parameters):
        arguments["part"] = request.text("part", request.part)
    try:
        signature.bind(**arguments)
    except TypeError as problem:
        raise DataError(
            f"{request.spec!r} cannot be called with {arguments}: {problem}",
            f"it is {request.location}{signature}",
        ) from None
    try:
        with lookup.searching(request.root):
            return found(**arguments)
    except UserError:
        raise
    except Exception as problem:  # the party's own code
        raise DataError(
            f"{request.spec!r} fails: {type(problem).__name__}: {problem}", "mend the function"
        ) from problem


def _images(images: Any, request: Request, where: str) -> torch.Tensor:
    try:
        array = np.asarray(_plain(images))
    except ValueError:
        raise DataError(
            f"{where}: images of different shapes in one array",
            "return a torch Dataset, whose images may differ in size",
        ) from None
    if not request.classes and array.ndim == 2 and array.dtype == np.float32:
        return _features(array, where)
    if isinstance(images, torch.Tensor) and images.ndim == 4:
        array = channels_last(images)
    return fit_images(array, request.fitting, where)


def _features(array: Any, where: str) -> torch.Tensor:
    if len(array) == 0:
        raise DataError(f"{where}: no records at all", "return some")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: NaN or infinity among the features", "mend or remove it")
    return torch.from_numpy(np.ascontiguousarray(array))


def _plain(values: Any) -> Any:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else values


def _wrong(where: str, what: str) -> DataError:
    return DataError(
        f"{where} returned {what}",
        "return (images, labels), (images, labels, groups) or a torch Dataset",
    )
