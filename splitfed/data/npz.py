"""``npz:PATH``: arrays ``{train,val,test}_images`` and ``_labels``, as MedMNIST has them.

Labels are positions in the agreement's classes. ``{train,val,test}_groups`` may say which
patient each image belongs to. Nothing in the file is unpickled, and an array that would take far
more memory than its compressed bytes can mean is refused (:mod:`splitfed.data.npy`).
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from splitfed.data.arrays import Array, fit_groups, fit_images, fit_labels
from splitfed.data.images import ImageSet, image_set
from splitfed.data.npy import LARGEST, Archive
from splitfed.data.request import Request
from splitfed.errors import DataError
from splitfed.reading import open_plain

KEYS = ("part", "convert")

PREFIXES = {"train": "train", "validation": "val", "val": "val", "test": "test"}
"""The prefix of the arrays for each part."""

_SINGLE = b"\x93NUMPY"


def read(request: Request) -> ImageSet:
    """The arrays of one part: the spec's ``part=``, or what the set is for.

    Raises:
        DataError: naming the file: unreadable, an array is missing, holds objects, or does
            not fit the others or the agreement.
    """
    prefix = PREFIXES[request.choice("part", PREFIXES, request.part if request.labelled else "")]
    path = request.path
    try:
        with open_plain(path, LARGEST) as file:
            return _read(file, path, prefix, request)
    except OSError as problem:
        raise DataError(
            f"{path}: cannot be read: {problem.strerror or problem}", f"check {request.spec!r}"
        ) from None


def _read(file: BinaryIO, path: Path, prefix: str, request: Request) -> ImageSet:
    if file.read(len(_SINGLE)) == _SINGLE:
        raise DataError(f"{path}: a single array, not an npz file", "write it with numpy.savez")
    try:
        archive = Archive(file)
    except ValueError as problem:
        raise DataError(
            f"{path}: not an npz file: {problem}", "write it with numpy.savez"
        ) from None
    where = f"{path}, {prefix}_images"
    images = fit_images(_member(archive, f"{prefix}_images", path), request.fitting, where)
    labels = groups = None
    if request.labelled:
        key = f"{prefix}_labels"
        values = _member(archive, key, path)
        labels = fit_labels(values, len(images), request.classes, f"{path}, {key}")
    if (key := f"{prefix}_groups") in archive.names:
        groups = fit_groups(_member(archive, key, path), len(images), f"{path}, {key}")
    return image_set(images, labels, request.preprocessing, groups=groups)


def _member(archive: Archive, key: str, path: Path) -> Array:
    if key not in archive.names:
        raise DataError(
            f"{path}: there is no array {key!r}",
            f"it holds: {', '.join(sorted(archive.names)) or 'nothing'}",
        )
    try:
        array = archive.read(key)
    except ValueError as problem:
        raise DataError(
            f"{path}: array {key!r} cannot be read: {problem}",
            "write plain numbers with numpy.savez; objects are never unpickled",
        ) from None
    if array.ndim == 0:
        raise DataError(f"{path}: array {key!r} is a single value", "give one entry per image")
    return array
