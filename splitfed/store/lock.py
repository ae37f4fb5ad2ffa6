"""One process per run folder, held by the kernel: a killed process leaves no stale lock."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from splitfed.errors import FolderError
from splitfed.store.durable import storage_errors

NAME = "lock"
_BUSY = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class FolderLock:
    """An exclusive ``flock`` on ``FOLDER/lock``, which holds the owner's process id as text.

    Args:
        folder: an existing run folder.
        patience: seconds to try again. :func:`holder` of another process takes the lock for
            microseconds, and a process that is just ending needs a moment.

    Raises:
        FolderError: another process has the lock; the message names its process id.
    """

    def __init__(self, folder: Path, patience: float = 0.3) -> None:
        path = folder / NAME
        with storage_errors(path):
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + patience
        while not _try_lock(self._descriptor, fcntl.LOCK_EX, path):
            if time.monotonic() >= deadline:
                owner = _owner(self._descriptor)
                os.close(self._descriptor)
                who = f"process {owner}" if owner else "another process"
                raise FolderError(
                    f"the run folder {folder} is in use by {who}",
                    "wait until it ends, stop it, or use another --out folder; `splitfed status "
                    f"{folder}` shows what it is doing",
                )
            time.sleep(0.02)
        os.ftruncate(self._descriptor, 0)
        with suppress(OSError):  # the id is a courtesy: a full disk shows at the first real write
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the folder back; calling it again does nothing."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def holder(folder: Path) -> int | None:
    """The id of the process that has ``folder`` open, 0 if it is not known, None if none has."""
    try:
        # Non-blocking: the folder may be somebody else's, with a pipe in the file's place.
        descriptor = os.open(folder / NAME, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        if _try_lock(descriptor, fcntl.LOCK_SH, folder / NAME):
            return None
        return _owner(descriptor) or 0
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _BUSY:
            return False
        os.close(descriptor)
        raise FolderError(
            f"{path} cannot be locked: {error.strerror}",
            "put the run folder on a local disk; this file system has no file locks",
        ) from error
    return True


def _owner(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
