"""The run folder: the one place where a party's federation lives between processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from splitfed.errors import FolderDiverged, FolderError
from splitfed.store import checkpoints, database
from splitfed.store.database import Database
from splitfed.store.durable import Disk, publish, storage_errors, sweep
from splitfed.store.journal import Log, read_status, to_json, write_status
from splitfed.store.layout import (
    CHECKPOINTS,
    INBOX,
    OUTBOX,
    plain_name,
    prepare,
)
from splitfed.store.layout import create as create_folder
from splitfed.store.lock import FolderLock, holder
from splitfed.store.records import RoundRecords
from splitfed.store.view import FolderView

if TYPE_CHECKING:
    import torch


class RunFolder(RoundRecords):
    """A run folder held by this process: everything durable that one party does.

    Made by :meth:`open`. Every method but :meth:`log` and :meth:`set_status` belongs to the
    thread that opened it.
    Each change is durable when its method returns, or, inside :meth:`batch`, when the batch
    ends; a crash leaves the state before or after it. Repeating a change is harmless.

    :meth:`release` before sending; inputs and my vote (one :meth:`batch`) before voting.
    """

    def __init__(
        self,
        path: Path,
        store: Database,
        disk: Disk,
        lock: FolderLock,
        log: Log,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(path, store, disk, clock)
        self._lock = lock
        self._log = log

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        party: str,
        contract: bytes,
        document: str = "",
        replaces: bytes | None = None,
        create: bool = True,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> RunFolder:
        """Lock the folder, make it if it is new, verify its ledger and count one more boot.

        Until the folder has met its peers, it follows whatever agreement it is opened with;
        from then on it is bound to that one.

        Args:
            path: the party's run folder.
            party: my name.
            contract: digest of the agreement, 32 bytes.
            document: the agreement as text, to be compared with a later one.
            replaces: the recorded agreement that ``contract`` may follow once the peers
                agree, see :meth:`adopt_contract`.
            create: whether a missing folder is made.
            disk: the durable file-system calls; tests give others.
            clock: seconds since 1970, for the ledger's and the log's times.

        Raises:
            FolderError: the folder is in use (naming the process), missing, of another party
                or agreement, of a newer splitfed, damaged, or the disk is full.
            LedgerTampered: the ledger was changed, or is gone while its files are there.
        """
        disk = disk or Disk()
        if not create and not path.is_dir():
            raise FolderError(f"there is no run folder {path}", "check the path")
        with ExitStack() as stack:
            prepare(path, disk)
            lock = FolderLock(path)
            stack.callback(lock.release)
            for place in (path, path / OUTBOX, path / INBOX, path / CHECKPOINTS):
                sweep(disk, place)
            store = Database(path / database.NAME, disk)
            stack.callback(store.close)
            if not store.exists:
                create_folder(path, store, disk, party, (contract, document))
            with storage_errors(path):
                log = Log(path, clock)
            stack.callback(log.close)
            folder = cls(path, store, disk, lock, log, clock)
            folder._check_owner(party, contract, replaces)
            folder.ledger.verify()
            with store.transaction():
                store.set_meta("boot", folder.boot + 1)
                if not folder._bound:
                    store.set_meta("contracts", [(contract, document)])
            stack.pop_all()
        return folder

    @staticmethod
    def read_only(path: Path) -> FolderView:
        """Open a folder for reading without its lock, also while a run holds it.

        Raises:
            FolderError: there is no run folder, or it is damaged.
        """
        return FolderView.at(path)

    @staticmethod
    def read_status(path: Path) -> dict[str, Any] | None:
        """What the run in ``path`` last said about itself, or None; needs nothing else."""
        return read_status(path)

    @staticmethod
    def holder(path: Path) -> int | None:
        """The id of the process that runs in ``path`` (0: not known), or None if none does."""
        return holder(path)

    # --- who and which run -------------------------------------------------------------

    def fix_run(self, run: bytes, peers: Mapping[str, bytes]) -> None:
        """Bind the folder durably to one federation run and its peers' folders.

        Args:
            run: the run's name, 32 bytes.
            peers: the folder id of each peer.

        Raises:
            FolderDiverged: the folder is bound to another run or to other folders of peers.
        """
        known = self.run
        if known is None:
            with self._database.transaction():
                self._database.set_meta("run", {"run": run, "peers": dict(peers)})
        elif known != run or self.peer_folders != dict(peers):
            mine = self.peer_folders
            others = sorted(
                name for name in mine.keys() | peers.keys() if mine.get(name) != peers.get(name)
            )
            who = f"the folder of {', '.join(others)} is another one" if others else "run differs"
            raise FolderDiverged(
                f"{self.path} belongs to run {known.hex()[:16]}, not to {run.hex()[:16]}: {who}",
                "go on with the folders that began together, or begin anew with new --out "
                "folders on every side",
            )

    def adopt_contract(self, contract: bytes, document: str = "", roster: str = "") -> None:
        """Follow this agreement and these public keys (``roster``, JSON text) durably from now
        on; call it once every peer has them too."""
        if contract == self.contract and roster in ("", *self.rosters[-1:]):
            return
        with self._database.transaction():
            if contract != self.contract:
                self._database.set_meta("contracts", [*self.contracts, (contract, document)])
            if roster not in ("", *self.rosters[-1:]):
                self._database.set_meta("rosters", [*self.rosters, roster])

    # --- the rest ----------------------------------------------------------------------

    def log(self, event: str, **fields: Any) -> None:
        """Append an event to ``log.jsonl``; any thread may call it, and it never raises."""
        self._log.write(event, fields)

    def set_status(self, status: Mapping[str, Any]) -> None:
        """Replace ``status.json``; adds ``pid``, ``updated_at`` and ``monotonic_s``. Any thread
        may call it, and it never raises."""
        write_status(self.path, dict(status))

    def write_json(self, name: str, value: Any) -> None:
        """Replace a JSON file in the folder durably, whole or not at all, indented.

        Raises:
            FolderError: the disk is full; the old file is still there.
        """
        text = msgspec.json.format(to_json(value), indent=2) + b"\n"
        publish(self._disk, self.path / plain_name(name), (text,))

    def write_tensors(
        self, name: str, tensors: Mapping[str, torch.Tensor], meta: Any = None
    ) -> bytes:
        """Replace a safetensors file in the folder durably and return its BLAKE3, 32 bytes.

        Raises:
            FolderError: the disk is full; the old file is still there.
        """
        return checkpoints.save(self._disk, self.path / plain_name(name), tensors, meta)

    def close(self) -> None:
        """Close the files and give the lock back; calling it again does nothing."""
        self._database.close()
        self._log.close()
        self._lock.release()

    # --- inside ------------------------------------------------------------------------

    @property
    def _bound(self) -> bool:
        return self.run is not None or self.closed() is not None or bool(self.ledger.rows())

    def _check_owner(self, party: str, contract: bytes, replaces: bytes | None) -> None:
        if self.party != party:
            raise FolderError(
                f"the run folder {self.path} belongs to party {self.party}, not to {party}",
                "give each party its own --out folder",
            )
        if self._bound and self.contract not in (contract, replaces):
            raise FolderError(
                f"the run folder {self.path} follows agreement {self.contract.hex()[:16]}, "
                f"not {contract.hex()[:16]}",
                "go back to the federation.toml this run began with, or use another --out folder",
            )

    def _warn_damaged(self, path: Path, why: str) -> None:
        super()._warn_damaged(path, why)
        self.log("checkpoint-damaged", file=path.name, why=why)
