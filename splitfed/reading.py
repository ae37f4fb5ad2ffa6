"""Reading files that somebody else may have made: plain files, and no more than a limit.

A name in a file that was sent along may lead to a pipe on which a reader waits for ever, to a
device without an end, or out of the folder that was sent. Whoever reads here says first how
much it is willing to hold.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_plain(path: Path, limit: int) -> BinaryIO:
    """The file opened for reading, if it is one.

    Args:
        path: links are followed; what they lead to must be a plain file.
        limit: bytes it may have at most.

    Raises:
        OSError: it cannot be opened, is no plain file, or is larger; ``strerror`` says which.
    """
    try:
        # Non-blocking: a pipe in the file's place is refused and not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:  # a name with a null byte in it
        raise OSError(errno.EINVAL, "is no name that a file can have", str(path)) from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no plain file", str(path))
        if status.st_size > limit:
            raise _too_large(path, limit)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_plain(path: Path, limit: int) -> bytes:
    """The bytes of a plain file of at most ``limit`` bytes.

    Raises:
        OSError: as :func:`open_plain`, also where the file grows while it is read.
    """
    with open_plain(path, limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise _too_large(path, limit)
    return content


def is_inside(folder: Path, path: Path) -> bool:
    """Whether ``path`` lies in ``folder`` once every link and ``..`` is followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a name no file can have
        return False


def size_of(count: int) -> str:
    """A limit in words: ``"16 MiB"``."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    return f"{count} bytes"


def _too_large(path: Path, limit: int) -> OSError:
    what = f"is larger than {size_of(limit)}, the most that is read"
    return OSError(errno.EOVERFLOW, what, str(path))
