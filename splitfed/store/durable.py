"""The only place where the run folder touches the disk on its durable path.

A file becomes durable in four steps, and each step is one method of :class:`Disk`:
write a temporary file and fsync it, rename it to its name, fsync the folder. A SQLite
commit is the fifth. Tests replace the disk to stop before any of them, to drop what was
not yet synced, or to be full; nothing else in this package opens a file for writing
except the log and the status, which may be lost.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from splitfed.errors import FolderError

Bytes = bytes | bytearray | memoryview
"""Anything whose bytes can be written without a copy."""

TEMPORARY = ".tmp"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Disk:
    """The file-system calls of the durable path; replace it in tests to stop at any of them."""

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        """Write ``parts`` one after the other into a new or emptied file and fsync it.

        The parts are handed to the kernel as they are: a part is never copied in memory.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            for part in parts:
                view = memoryview(part).cast("B")
                while view:  # one call writes at most 2 GiB and may write less
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Give ``source`` the name ``target``, replacing what had it, in one atomic step."""
        os.replace(source, target)

    def fsync_dir(self, folder: Path) -> None:
        """Make the names in ``folder`` durable: without it a rename may be undone."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Remove a file that nothing needs any more; a crash may bring it back."""
        path.unlink(missing_ok=True)

    def make_dir(self, folder: Path) -> None:
        """Make ``folder`` and its missing parents, each durable, each for the owner only."""
        missing = [folder, *folder.parents]
        for path in reversed([path for path in missing if not path.exists()]):
            path.mkdir(mode=0o700, exist_ok=True)
            self.fsync_dir(path.parent)

    def commit(self, connection: sqlite3.Connection) -> None:
        """End the open transaction; with ``synchronous=FULL`` this is one fsync of the WAL."""
        connection.execute("COMMIT")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system and SQLite say about the disk into a FolderError.

    Raises:
        FolderError: the disk is full, the file may not be written, or it is damaged.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise _full(path) from error
        raise FolderError(
            f"{path}: {error.strerror or error}",
            "check the disk and the folder's owner and permissions, then run the command again",
        ) from error
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise _full(path) from error
        raise FolderError(
            f"{path}: {error}",
            "check the disk and the folder's owner and permissions, then run the command again",
        ) from error
    except sqlite3.DatabaseError as error:
        if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
            raise  # a wrong statement is ours, not the disk's
        raise FolderError(
            f"{path} is damaged: {error}",
            "restore the run folder from a backup, or begin anew with another --out folder",
        ) from error


def publish(disk: Disk, path: Path, parts: Iterable[Bytes]) -> None:
    """Replace ``path`` by a file that holds ``parts``: whole or not at all, and durable.

    Raises:
        FolderError: the disk is full or refuses; what was at ``path`` is still there.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with storage_errors(path):
        try:
            disk.write_file(temporary, parts)
            disk.rename(temporary, path)
        except Exception:  # not at Ctrl-C or a kill: the next process sweeps what those leave
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        disk.fsync_dir(path.parent)


def write_atomic(path: Path, data: Bytes) -> None:
    """:func:`publish` for one buffer on the real disk, for reports and exported files."""
    publish(Disk(), path, (data,))


def sweep(disk: Disk, folder: Path) -> None:
    """Remove the temporary files that a killed process left in ``folder``."""
    with storage_errors(folder):
        for path in folder.glob(f".*{TEMPORARY}"):
            disk.remove(path)


def _full(path: Path) -> FolderError:
    return FolderError(
        f"no space is left on the disk while writing {path}",
        f"free space on the disk of {path.parent} and run the same command again: it goes on "
        "from the last closed round",
    )
