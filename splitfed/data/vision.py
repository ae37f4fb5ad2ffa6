"""``torchvision:NAME``: a dataset class of torchvision, from a local root or downloaded.

``root=FOLDER`` says where its files lie; ``download=yes`` lets torchvision fetch them. Labels
are matched to the agreement by the dataset's class names; ``labels=index`` takes its numbers
as positions in the agreement's classes instead. torchvision reads a few of its sets (CIFAR)
with pickle, after comparing their checksum with the published one.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from splitfed.data.arrays import by_name, fit_labels
from splitfed.data.images import ImageSet, image_set
from splitfed.data.request import Request
from splitfed.data.samples import read_samples
from splitfed.errors import DataError

KEYS = ("root", "download", "part", "split", "labels", "convert")

_PARTS = ("train", "validation", "test", "all")


def read(request: Request) -> ImageSet:
    """One part of the dataset: the spec's ``part=``, or what the set is for.

    Raises:
        DataError: no such dataset, no such part, files missing, or labels or images that do
            not fit the agreement.
    """
    make = _dataset_class(request)
    dataset = _open(make, request)
    where = f"{request.spec!r}"
    images, values, _ = read_samples(dataset, request.fitting, where)
    labels = _labels(values, dataset, request, where) if request.labelled else None
    return image_set(images, labels, request.preprocessing)


def _dataset_class(request: Request) -> Callable[..., Any]:
    datasets = importlib.import_module("torchvision.datasets")
    found = getattr(datasets, request.location, None)
    if (
        not isinstance(found, type)
        or not issubclass(found, torch.utils.data.Dataset)
        or "root" not in inspect.signature(found).parameters
    ):
        by_lower = {name.lower(): name for name in datasets.__all__}
        close = [by_lower[n] for n in difflib.get_close_matches(request.location.lower(), by_lower)]
        raise DataError(
            f"{request.spec!r}: torchvision has no dataset {request.location!r} with files",
            f"did you mean {' or '.join(close)}?" if close else "see torchvision.datasets",
        )
    return found


def _open(make: Callable[..., Any], request: Request) -> Any:
    takes = inspect.signature(make).parameters
    root = request.text("root", "")
    if not root:
        raise DataError(
            f"{request.spec!r}: nothing says where the files lie",
            f"add root=FOLDER: torchvision:{request.location}?root=FOLDER",
        )
    arguments: dict[str, Any] = {"root": request.root / Path(root).expanduser()}
    if request.switch("download"):
        if "download" not in takes:
            raise DataError(
                f"{request.spec!r}: torchvision cannot download {request.location}",
                "put its files below root and drop download=yes",
            )
        arguments["download"] = True
    arguments |= _part(takes, request)
    try:
        return make(**arguments)
    except Exception as problem:  # torchvision raises whatever its files and the net bring
        raise DataError(
            f"{request.spec!r}: {type(problem).__name__}: {problem}",
            f"put its files below {arguments['root']}, or add download=yes "
            "where there is internet access",
        ) from problem


def _part(takes: Any, request: Request) -> dict[str, Any]:
    """The arguments that choose the part; datasets differ in how they call it."""
    part = request.choice("part", _PARTS, request.part if request.labelled else "")
    chosen: dict[str, Any] = {}
    if split := request.text("split", ""):
        if "split" not in takes:
            raise DataError(f"{request.spec!r}: {request.location} takes no split", "drop split=")
        chosen["split"] = split
    if "train" in takes:
        if part not in ("train", "test"):
            raise DataError(
                f"{request.spec!r}: {request.location} has no {part} part",
                "leave validation out: a share of the training set then serves",
            )
        return {"train": part == "train", **chosen}
    if "split" in takes:
        return {"split": "val" if part == "validation" else part, **chosen}
    if part != "all":
        raise DataError(
            f"{request.spec!r}: {request.location} has no parts",
            "divide it with a package.module:function, or take it whole with part=all",
        )
    return {}


def _labels(values: list[Any], dataset: Any, request: Request, where: str) -> torch.Tensor:
    names = getattr(dataset, "classes", None)
    way = request.choice("labels", ("name", "index"), "name")
    if way == "index" or not names or not request.classes:
        return fit_labels(values, len(values), request.classes, where)
    try:
        return by_name([names[v] for v in values], request.classes, lambda i: f"{where}, image {i}")
    except DataError as error:
        raise DataError(
            error.message,
            f"the dataset's classes are: {', '.join(map(str, names))}; use these names in the "
            "agreement, or add labels=index if its order is the agreement's",
        ) from None
