"""Load a set of images from the spec that party.toml gives for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from splitfed.data import digits, folder, function, npz, vision
from splitfed.data.images import ImageSet
from splitfed.data.preprocessing import Preprocessing
from splitfed.data.request import Part, Request, parse
from splitfed.errors import DataError

READERS: Mapping[str, tuple[Callable[[Request], ImageSet], tuple[str, ...]]] = {
    "digits": (digits.read, digits.KEYS),
    "folder": (folder.read, folder.KEYS),
    "npz": (npz.read, npz.KEYS),
    "torchvision": (vision.read, vision.KEYS),
}
"""Each kind of source with its reader and the options that it knows."""


def load(
    spec: str,
    *,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    part: Part,
    root: Path,
    options: Mapping[str, Any] | None = None,
    minimum: int = 1,
) -> ImageSet:
    """The images that ``spec`` names, as the agreement wants them.

    ============================================  ==========================================
    spec                                          source
    ============================================  ==========================================
    ``digits:party=0&parties=2&split=skew``       real MNIST digits of the ``demo`` extra
    ``folder:PATH``                               one folder of image files per class
    ``npz:PATH?part=train``                       arrays as MedMNIST has them
    ``torchvision:NAME?root=FOLDER&download=yes`` a dataset of torchvision
    ``package.module:function?KEY=VALUE``         the party's own code
    ============================================  ==========================================

    Every one but the last takes ``convert=size``, ``convert=channels`` or both, joined by a
    comma: without it an image of another size or mode than agreed is an error. So does the
    last, for uint8 images.

    Args:
        spec: as in party.toml.
        preprocessing: the agreement's channels, size and constants.
        classes: the agreement's, in its order, which is that of the labels; empty for a
            regression.
        part: what the set is for; where the spec does not say which part of a source to read,
            the one of this name. A "reference" set is returned without labels.
        root: folder of party.toml; relative paths start there.
        options: ``[data] options`` of party.toml, for options that the spec leaves open.
        minimum: the number of images that must be there.

    Raises:
        DataError: the spec or what it points at cannot be used; the file is named.
    """
    request = parse(
        spec,
        preprocessing=preprocessing,
        classes=tuple(classes),
        part=part,
        root=root,
        options=options or {},
    )
    try:
        data = _read(request)
    except MemoryError:
        raise DataError(
            f"{spec!r}: its images take more memory than there is", "use fewer or smaller images"
        ) from None
    if len(data) < minimum:
        raise DataError(
            f"{spec!r}: too few records: {len(data)}, {minimum} are needed",
            "add data, or agree on fewer records",
        )
    return data


def _read(request: Request) -> ImageSet:
    if request.kind == "function":
        return function.read(request)
    everywhere = {key for _, keys in READERS.values() for key in keys}
    read, keys = READERS[request.kind]
    request.check_keys(keys, everywhere)
    return read(request)
