"""Arrays in numpy's format, read within limits: nothing is unpickled, nothing is made large.

numpy sets aside the memory that a header asks for before it sees the first value, and expands
what is compressed until its end. Here the header, the length of the file and the memory that
it would take are compared first.
"""

from __future__ import annotations

import io
import math
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from splitfed.reading import open_plain, size_of

Array = NDArray[Any]

LARGEST = 16 << 30
"""Bytes of a file, and of one array in memory."""

FREE, RATIO = 64 << 20, 200
"""Bytes an archive's array may take whatever it was compressed to, and the compression beyond
that is believed. Images are compressed to a half or a third; zeros to a thousandth."""

_PIECE = 16 << 20  # bytes that zipfile may ask for at once: the table of an archive's contents
_KINDS = "biufU"
# What zipfile meets damage with; RuntimeError: a password is asked for.
_DAMAGE = (
    zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, EOFError, RuntimeError,
    OverflowError, UnicodeDecodeError,
)  # fmt: skip


def read_npy(path: Path) -> Array:
    """The array in a ``.npy`` file.

    Raises:
        OSError: it cannot be read, is no plain file or is larger than :data:`LARGEST`.
        ValueError: it is none, is cut short, or holds objects.
    """
    with open_plain(path, LARGEST) as file:
        return _read(file, os.fstat(file.fileno()).st_size)


class Archive:
    """The arrays of an ``.npz`` file.

    Args:
        file: as :func:`splitfed.reading.open_plain` gives it.

    Attributes:
        names: of its arrays.

    Raises:
        ValueError: it is no archive of arrays: the reason is the message.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._size = os.fstat(file.fileno()).st_size
        try:
            self._zip = zipfile.ZipFile(_Guarded(file))
        except _DAMAGE as problem:
            raise ValueError(str(problem)) from None
        members = self._zip.infolist()
        for member in members:
            name = member.filename
            if any(mark in name for mark in "/\\\0:") or name in ("", ".", ".."):
                raise ValueError(f"an entry {name!r}, which is a path; arrays have plain names")
        self._members = {member.filename.removesuffix(".npy"): member for member in members}
        self.names = tuple(self._members)
        if len(self.names) != len(members):
            raise ValueError("two entries of one name")

    def read(self, name: str) -> Array:
        """One array.

        Raises:
            KeyError: there is none of this name.
            ValueError: it holds objects, is damaged, or would take more memory than an array
                that was compressed to so few bytes can need.
        """
        member = self._members[name]
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"compressed in a way that numpy never uses ({member.compress_type})")
        # The two lengths are the archive's own claims: zipfile never gives out more than the
        # first, and the second cannot be more than there is.
        packed = min(member.compress_size, self._size)
        if member.file_size > LARGEST or member.file_size > max(FREE, RATIO * packed):
            raise ValueError(
                f"{packed} bytes that would become {member.file_size}: an array takes at most "
                f"{size_of(LARGEST)}, and above {size_of(FREE)} {RATIO} times its compressed bytes"
            )
        try:
            with self._zip.open(member) as file:
                return _read(file, member.file_size)
        except _DAMAGE as problem:
            raise ValueError(str(problem)) from None


def _read(file: Any, size: int) -> Array:
    """The array in ``size`` bytes."""
    start = io.BytesIO(file.read(npy.MAGIC_LEN + 2))
    version = npy.read_magic(start)
    if version != (1, 0):  # 2.0 and 3.0 have headers of up to 4 GiB, for arrays of records
        raise ValueError(f"an array in format {version[0]}.{version[1]}; plain numbers take 1.0")
    length = int.from_bytes(start.read(2), "little")
    header = io.BytesIO(length.to_bytes(2, "little") + file.read(length))
    try:
        shape, in_columns, dtype = npy.read_array_header_1_0(header)
    except Exception as problem:  # the text is parsed as Python's, which fails in many ways
        raise ValueError(f"a header that cannot be read: {problem}") from None
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise ValueError(f"values of {dtype}; objects are never unpickled")
    if any(type(side) is not int or side < 0 for side in shape):
        raise ValueError(f"a shape of {shape}")
    wanted = math.prod(shape) * dtype.itemsize
    there = size - npy.MAGIC_LEN - 2 - length
    if wanted != there:
        raise ValueError(f"{there} bytes for {list(shape)} values of {dtype}, which take {wanted}")
    flat = np.empty(wanted, np.uint8)
    view, filled = flat.data, 0
    while filled < wanted:
        got = file.readinto(view[filled : filled + _PIECE])
        if not got:
            raise ValueError(f"cut short after {filled} of {wanted} bytes")
        filled += got
    if dtype.itemsize == 0:  # texts of no letters
        return np.zeros(shape, dtype)
    values: Array = flat.view(dtype)
    return values.reshape(shape, order="F" if in_columns else "C")


class _Guarded(io.RawIOBase):
    """A file that is never asked for much at once, whatever an archive says of itself."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(_PIECE + 1 if size < 0 else min(size, _PIECE + 1))
        if len(found) > _PIECE:
            raise zipfile.BadZipFile(f"its table of contents is larger than {size_of(_PIECE)}")
        return found
