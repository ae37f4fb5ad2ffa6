"""Files that are not what their names say: pipes, endless devices, bombs, and headers that lie."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from splitfed import data
from splitfed.data import ImageSet, Preprocessing
from splitfed.data.folder import decode
from splitfed.data.preprocessing import Fitting

Trap = Callable[[Path], object]
MIB = 1 << 20
SHOWN = Preprocessing(channels=1, size=(28, 28))


def endless(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def silent(path: Path) -> None:
    """A pipe that nobody writes to: whoever opens it waits for ever."""
    os.mkfifo(path)


def loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def vast(path: Path, size: int = 1 << 40) -> None:
    """A file that says it is a terabyte; nothing of it lies on the disk."""
    with path.open("wb") as file:
        file.truncate(size)


PLACES: dict[str, Trap] = {"endless": endless, "silent": silent, "loop": loop, "vast": vast}
"""What may stand where a file is expected."""


def png(width: int, height: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey PNG with this header and compressed data, and further chunks between them."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def zeros(count: int) -> bytes:
    """``count`` zeros, compressed a thousandfold."""
    squeezer = zlib.compressobj(9)
    block = bytes(1 << 20)
    parts = [
        squeezer.compress(block[: min(1 << 20, count - at)]) for at in range(0, count, 1 << 20)
    ]
    return b"".join(parts) + squeezer.flush()


def npy(
    shape: Any, dtype: Any = "|u1", data: bytes = b"", version: tuple[int, int] = (1, 0)
) -> bytes:
    """A .npy file with a header that may lie about its data."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    length = struct.pack("<H" if version == (1, 0) else "<I", len(text))
    return b"\x93NUMPY" + bytes(version) + length + text + data


def npz(path: Path, *, how: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    """An archive of these arrays, names without ``.npy``."""
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return path


def safetensors(header: Any, body: bytes = b"") -> bytes:
    """A safetensors file with this header, a value for JSON or its bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def tiff_chain(path: Path, picture: bytes, count: int) -> None:
    """``picture``, a little-endian TIFF of one frame, with ``count`` more frames that are the
    same directory again and again."""
    data = bytearray(picture)
    (first,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, first)
    directory = bytes(data[first : first + 2 + 12 * entries])
    link = first + 2 + 12 * entries
    for _ in range(count):
        struct.pack_into("<I", data, link, len(data))
        link = len(data) + len(directory)
        data += directory + bytes(4)
    path.write_bytes(data)


@contextmanager
def frugal(limit: int = 48 * MIB) -> Iterator[None]:
    """Fails if Python and numpy set aside more than ``limit`` bytes inside."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit, f"{peak / MIB:.0f} MiB"


def read_set(path: Path) -> ImageSet:
    """The training part of an npz file."""
    return data.load(
        f"npz:{path}", preprocessing=SHOWN, classes=("a", "b"), part="train", root=path.parent
    )


def read_image(path: Path) -> Any:
    """One image file, uint8 [1, 28, 28]."""
    return decode(path, Fitting(preprocessing=SHOWN, convert=frozenset(), spec=""))
