"""Where things lie in a run folder, and how a new one is made."""

from __future__ import annotations

import os
from pathlib import Path

from splitfed.errors import Defect, LedgerTampered
from splitfed.store.database import Database
from splitfed.store.durable import Disk, storage_errors

OUTBOX, INBOX, CHECKPOINTS = "outbox", "inbox", "checkpoints"
OUTBOX_CURE = (
    "restore this file from a backup: these bytes have left, and others must never be sent "
    "in their place"
)
INBOX_CURE = "restore this file from a backup, or begin anew with another --out folder"
ANEW = "restore the run folder from a backup, or begin anew with another --out folder"


def prepare(path: Path, disk: Disk) -> None:
    """Make the folders and close them to other users: weights and ledger are nobody's business."""
    with storage_errors(path):
        for folder in (path, path / OUTBOX, path / INBOX, path / CHECKPOINTS):
            disk.make_dir(folder)
        path.chmod(0o700)


def create(
    path: Path, store: Database, disk: Disk, party: str, contract: tuple[bytes, str]
) -> None:
    """Give a new folder its tables and its id.

    Raises:
        LedgerTampered: the ledger is gone, but files that it must have named are there.
    """
    for name in (OUTBOX, INBOX, CHECKPOINTS):
        if any((path / name).iterdir()):
            raise LedgerTampered(
                f"{store.path} is gone or empty, although {path / name} holds files of a run",
                ANEW,
            )
    with store.transaction():
        store.create()
        store.set_meta("folder", {"id": os.urandom(16), "party": party})
        store.set_meta("contracts", [contract])
    with storage_errors(path):
        disk.fsync_dir(path)


def plain_name(name: str) -> str:
    """``name`` itself, if it is a file's name and no path.

    Raises:
        Defect: it is not.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise Defect(f"{name!r} is no plain file name")
    return name
