"""``folder:PATH``: one folder of images per class, named as in the agreement.

``PATH/groups.csv`` (columns ``file,group``) may say which patient each image belongs to. A
reference set is unlabelled: its images lie in ``PATH`` itself. Images are taken in the order
of the agreement's classes, then of their file names, on every file system. A link out of the
folder is refused unless ``links=yes`` says that the party itself made it.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError

from splitfed.data.arrays import by_name
from splitfed.data.images import ImageSet, image_set
from splitfed.data.preprocessing import Fitting, Pixels
from splitfed.data.request import Request
from splitfed.errors import DataError
from splitfed.reading import is_inside, open_plain, read_plain

KEYS = ("convert", "links")

FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP", "PPM")
"""What is decoded. PIL would also run PostScript and guess at many rare formats."""

MAX_PIXELS = 1 << 26
"""Larger pictures are refused before they are decoded: 8192 x 8192 pixels."""

MAX_BYTES = 1 << 29
"""Larger files are refused unread: twice what the largest picture takes without compression."""

GROUPS_FILE = "groups.csv"
MAX_GROUPS_BYTES = 64 << 20


def read(request: Request) -> ImageSet:
    """The images below the folder.

    Raises:
        DataError: naming the file or folder: nothing there, an unknown class, something that
            is no image, a corrupt or oversized one, or a fault in groups.csv.
    """
    folder = request.path
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder", f"check {request.spec!r}")
    if request.labelled:
        files, labels = _labelled(folder, request)
    else:
        files, labels = _visible(folder), None
        for path in files:
            if path.is_dir():
                raise DataError(
                    f"{path}: a folder in a reference set",
                    "a reference set is unlabelled: put its images into one folder",
                )
    files = [path for path in files if path != folder / GROUPS_FILE]
    if not files:
        raise DataError(f"{folder}: no images at all", "point at a folder that is not empty")
    names = [path.relative_to(folder).as_posix() for path in files]
    groups_file = folder / GROUPS_FILE
    if not request.switch("links"):
        _refuse_links(folder, (*files, groups_file), request)
    fitting = request.fitting
    channels, (height, width) = request.preprocessing.channels, request.preprocessing.size
    images = _room(len(files), channels, height, width, folder)
    view = images.numpy()
    for place, path in enumerate(files):
        view[place] = decode(path, fitting)
    return image_set(
        images,
        labels,
        request.preprocessing,
        names=names,
        groups=_groups(groups_file, names) if groups_file.exists() else None,
    )


def decode(path: Path, fitting: Fitting) -> Pixels:
    """One image file as the agreement wants it, uint8 [C, H, W].

    Raises:
        DataError: naming the file: not an image of :data:`FORMATS`, corrupt or cut short,
            more than :data:`MAX_PIXELS` pixels, several frames, or a size or mode that
            differs from the agreement without a declared conversion.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            f"{path}: PIL has been told to accept images that are cut short",
            "leave PIL.ImageFile.LOAD_TRUNCATED_IMAGES off",
        )
    with warnings.catch_warnings():
        # Damage that PIL can read around is damage; its own, higher pixel limit has no say.
        warnings.simplefilter("error", UserWarning)
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            return _decode(path, fitting)
        except Image.DecompressionBombError:
            raise _oversized(path) from None
        except UnidentifiedImageError:
            raise DataError(
                f"{path}: not an image of a known format ({', '.join(FORMATS)})",
                "remove or mend it",
            ) from None
        except DataError:
            raise
        except Exception as problem:  # decoders meet damaged bytes with errors of every class
            reason = getattr(problem, "strerror", None) or str(problem)
            raise DataError(
                f"{path}: cannot be read as an image: {reason}", "mend or remove it"
            ) from None


def _decode(path: Path, fitting: Fitting) -> Pixels:
    with open_plain(path, MAX_BYTES) as file:
        with Image.open(file, formats=FORMATS) as picture:
            # Only the header is read so far: a bomb is refused before it unpacks.
            if picture.width * picture.height > MAX_PIXELS:
                raise _oversized(path)
            if _several(picture):
                raise DataError(f"{path}: holds several images", "save each in a file of its own")
        file.seek(0)
        with Image.open(file, formats=FORMATS) as picture:  # anew: looking further moved it
            picture.load()
            return np.array(fitting.picture(picture, str(path)))


def _several(picture: Image.Image) -> bool:
    """Whether there is a second frame. To count all of them would follow a TIFF's chain of
    directories, which may have millions of links and takes the square of their number."""
    if picture.format != "TIFF":
        return getattr(picture, "n_frames", 1) != 1
    try:
        picture.seek(1)
    except EOFError:
        return False
    return True


def _labelled(folder: Path, request: Request) -> tuple[list[Path], torch.Tensor]:
    if not request.classes:
        raise DataError(
            f"{request.spec!r}: the agreement has no classes, a folder needs them",
            "use npz: or a function for a regression",
        )
    folders = []
    for path in _visible(folder):
        if path.is_dir():
            folders.append(path)
        elif path.name != GROUPS_FILE:
            raise DataError(
                f"{path}: a file beside the classes' folders",
                "put each image into the folder of its class",
            )
    order = by_name([path.name for path in folders], request.classes, lambda i: str(folders[i]))
    files: list[Path] = []
    labels: list[int] = []
    for label, path in sorted(zip(order.tolist(), folders, strict=True)):
        inside = _visible(path)
        for entry in inside:
            if entry.is_dir():
                raise DataError(f"{entry}: a folder in a class's folder", "move its images up")
        files += inside
        labels += [label] * len(inside)
    return files, torch.tensor(labels, dtype=torch.int64)


def _refuse_links(folder: Path, files: Iterable[Path], request: Request) -> None:
    """A folder that was sent must not bring other images of this machine into a set, whose
    outputs may leave. Only what is a link, or lies below one, is followed."""
    linked = {path for path in {path.parent for path in files} - {folder} if path.is_symlink()}
    for path in files:
        if (path.is_symlink() or path.parent in linked) and not is_inside(folder, path):
            raise DataError(
                f"{path}: a link that leads out of {folder}",
                f"copy the images there, or allow it if you made the links: {_with_links(request)}",
            )


def _with_links(request: Request) -> str:
    return f"{request.spec}{'&' if request.query else '?'}links=yes"


def _room(count: int, channels: int, height: int, width: int, folder: Path) -> torch.Tensor:
    try:
        return torch.empty((count, channels, height, width), dtype=torch.uint8)
    except RuntimeError:  # torch's word for a lack of memory
        size = count * channels * height * width
        raise DataError(
            f"{folder}: {count} images of {height}x{width} take {size >> 20} MiB, more memory "
            "than there is",
            "use fewer or smaller images",
        ) from None


def _visible(folder: Path) -> list[Path]:
    """Entries in the order of their names, without what file managers leave behind."""
    litter = {"Thumbs.db", "desktop.ini"}
    try:
        entries = [p for p in folder.iterdir() if p.name[0] != "." and p.name not in litter]
    except OSError as problem:
        raise DataError(f"{folder}: cannot be read: {problem.strerror}", "") from None
    return sorted(entries, key=lambda path: path.name)


def _groups(path: Path, names: list[str]) -> tuple[str, ...]:
    group_of: dict[str, str] = {}
    try:
        text = read_plain(path, MAX_GROUPS_BYTES).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except (OSError, UnicodeError, csv.Error) as problem:
        raise DataError(f"{path}: cannot be read: {problem}", "write it as UTF-8 CSV") from None
    if not rows or [cell.strip() for cell in rows[0]] != ["file", "group"]:
        raise DataError(f"{path}: the first line is not 'file,group'", "name the two columns")
    known = set(names)
    for line, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != 2 or not row[1].strip():
            raise DataError(f"{path}, line {line}: {','.join(row)!r}", "write file,group")
        name, group = row[0].strip(), row[1].strip()
        if name not in known or name in group_of:
            fault = "names a file that is not here" if name not in known else "repeats a file"
            raise DataError(f"{path}, line {line}: {fault}: {name!r}", "one line per image")
        group_of[name] = group
    for name in names:
        if name not in group_of:
            raise DataError(f"{path}: no line for {name!r}", "one line per image")
    return tuple(group_of[name] for name in names)


def _oversized(path: Path) -> DataError:
    return DataError(
        f"{path}: more than {MAX_PIXELS} pixels", "scale it down, or remove it if it is no scan"
    )
