"""A party's images as `splitfed init` meets them: where they are, their classes, how many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from splitfed.config import parse
from splitfed.config.faults import did_you_mean
from splitfed.config.party import SCHEMES, SOURCE_RULE, DataConfig
from splitfed.errors import DataError

if TYPE_CHECKING:
    from splitfed.data import Preprocessing

DIGITS = tuple("0123456789")
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a party's sets of images are, as they stand in party.toml; ``reference`` is None
    where it holds none in common with the others."""

    train: str
    validation: str
    test: str
    reference: str | None = None


def sources_of(data: str, folder: Path, reference: str | None = None) -> Sources:
    """The sources that ``--data`` and ``--reference`` stand for; relative paths become absolute.

    ``folder:PATH`` means PATH/train, PATH/validation and PATH/test; a path without a scheme
    is taken for what is there. All other sources divide themselves into the three parts.

    Raises:
        DataError: it is none of the forms, or a folder lacks one of the three.
    """
    if Path(data).is_dir():
        data = f"folder:{data}"
    elif Path(data).is_file() and data.endswith(".npz"):
        data = f"npz:{data}"
    scheme, colon, rest = data.partition(":")
    if not colon:
        raise DataError(
            f"--data {data}: neither a file nor a folder, and no source"
            f"{did_you_mean(data, SCHEMES)}",
            f"give {SOURCE_RULE}",
        )
    if scheme == "folder":
        path, question, options = rest.partition("?")
        root = Path(path).absolute()
        missing = [part for part in PARTS if not (root / part).is_dir()]
        if missing:
            raise DataError(
                f"--data {data}: {root} has no folder {' and none named '.join(missing)}",
                "it needs train/, validation/ and test/, each with one folder of images a "
                "class; or name any three sources in party.toml yourself",
            )
        of = {part: f"folder:{_relative(root / part, folder)}{question}{options}" for part in PARTS}
    elif scheme == "npz":
        path, question, options = rest.partition("?")
        place = _relative(Path(path).absolute(), folder)
        of = dict.fromkeys(PARTS, f"npz:{place}{question}{options}")
    else:
        of = dict.fromkeys(PARTS, data)
    if reference is not None:
        of["reference"] = _placed(reference, folder)
    sources = Sources(**of)
    parse(DataConfig, {"id": "images", **of}, "--data")
    return sources


def classes_of(data: Sources, folder: Path) -> tuple[str, ...]:
    """The class names that a source shows by itself, or none."""
    scheme, _, rest = data.train.partition(":")
    if scheme == "digits":
        return DIGITS
    if scheme == "folder":
        root = folder / rest.partition("?")[0]
        inside = (entry for entry in root.iterdir() if entry.is_dir())
        return tuple(sorted(entry.name for entry in inside if not entry.name.startswith(".")))
    return ()


def count_units(
    source: str,
    preprocessing: Preprocessing,
    classes: Sequence[str],
    folder: Path,
    *,
    by_patient: bool,
) -> int:
    """The number of training images, or of patients, by reading them as the agreement says.

    Raises:
        DataError: an image that cannot be read, or a class that the agreement lacks.
    """
    from splitfed.data import load

    images = load(
        source,
        preprocessing=preprocessing,
        classes=tuple(classes),
        part="train",
        root=folder,
        options={},
    )
    return len(set(images.groups)) if by_patient and images.groups else len(images)


def _placed(source: str, folder: Path) -> str:
    """A source with its path made to fit party.toml in ``folder``."""
    if Path(source).is_dir():
        source = f"folder:{source}"
    elif Path(source).is_file() and source.endswith(".npz"):
        source = f"npz:{source}"
    scheme, _, rest = source.partition(":")
    if scheme not in ("folder", "npz"):
        return source
    path, question, options = rest.partition("?")
    return f"{scheme}:{_relative(Path(path).absolute(), folder)}{question}{options}"


def _relative(path: Path, folder: Path) -> str:
    """``path`` as party.toml in ``folder`` names it: relative where it lies below."""
    try:
        return path.relative_to(folder.absolute()).as_posix()
    except ValueError:
        return path.as_posix()
