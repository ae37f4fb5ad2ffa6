"""``budget.sqlite``: what was ever spent on a data set, over all runs and folders.

The file lies beside party.toml and holds one account per ``[data] id``. The order of a
release is outbox file → debit → ledger row → send, each durable before the next; so whatever
was sent has been paid for, and a crash can only over-count. One debit names one payload: new
noise for the same release is refused, because its debit is already taken.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from splitfed.errors import DataError, Defect, FolderDiverged
from splitfed.store.accounts import BUDGET_SCHEMA, Accounts, Entry, tampered
from splitfed.store.database import Database
from splitfed.store.durable import Disk, storage_errors
from splitfed.store.rows import Debit, LedgerEntry

BUDGET = "budget.sqlite"

_DIGEST = 32  # bytes
_making = threading.Lock()


class Budget:
    """The account of one data set.

    Made by :meth:`open`; belongs to the thread that opened it. Several processes may hold
    the same file: debits are checked and written under its one write lock, for which each
    waits up to 30 s. Every reading verifies the chain over the whole file and raises
    LedgerTampered where it is broken.

    Attributes:
        path: the file.
        data_id: the account.
    """

    def __init__(self, database: Database, data_id: str, clock: Callable[[], float]) -> None:
        self.path = database.path
        self.data_id = data_id
        self._database = database
        self._accounts = Accounts(database)
        self._clock = clock

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        data_id: str,
        data_digest: bytes,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> Budget:
        """Open the file, verify it, and open the account if it is new.

        Whether the file should have been there already cannot be seen here: ask
        :meth:`require` with the run folder's ledger.

        Args:
            path: the file, :data:`BUDGET` beside party.toml; made, for the owner only, if
                it is missing.
            data_id: ``[data] id`` of party.toml.
            data_digest: digest of the data set, 32 bytes.
            disk: the durable file-system calls; tests give others.
            clock: seconds since 1970, for the rows' time.

        Raises:
            DataError: the account was opened for a data set with another digest.
            LedgerTampered: the file was changed by something else than splitfed.
            FolderError: the file cannot be opened, is none of splitfed's, of a newer
                splitfed, damaged, locked for too long, or the disk is full.
        """
        if len(data_digest) != _DIGEST:
            raise Defect(f"the digest of data set {data_id} has {len(data_digest)} bytes")
        disk = disk or Disk()
        _make_private(path)
        database = Database(path, disk, BUDGET_SCHEMA)
        try:
            budget = cls(database, data_id, clock)
            budget._register(data_digest)
            # Every time, not only for a new file: its maker may have been killed before.
            with storage_errors(path):
                disk.fsync_dir(path.parent)
        except BaseException:
            database.close()
            raise
        return budget

    @staticmethod
    def read(path: Path, data_id: str) -> tuple[Debit, ...]:
        """The debits of an account, looked at without making file or account.

        Returns:
            The debits in order; none where there is no file or no account.

        Raises:
            LedgerTampered, FolderError: as :meth:`open` does.
        """
        with storage_errors(path):
            if not path.exists():
                return ()
        with closing(Database(path, Disk(), BUDGET_SCHEMA, read_only=True)) as database:
            accounts = Accounts(database)
            return _debits(accounts.entries(), data_id) if accounts.exist else ()

    @staticmethod
    def read_all(path: Path) -> tuple[Debit, ...]:
        """The debits of all accounts, looked at without making anything; see :meth:`read`.

        Raises:
            LedgerTampered, FolderError: as :meth:`open` does.
        """
        with closing(Database(path, Disk(), BUDGET_SCHEMA, read_only=True)) as database:
            accounts = Accounts(database)
            entries = accounts.entries() if accounts.exist else ()
        return tuple(entry.debit for entry in entries if entry.debit is not None)

    def debits(self) -> tuple[Debit, ...]:
        """Every debit of this account, in order."""
        return _debits(self._accounts.entries(), self.data_id)

    def find(self, release: bytes) -> Debit | None:
        """This account's debit for a release, or None: then nothing of it was paid or sent.

        Where there is one, only the payload with its root may be sent for this release.
        """
        return next((debit for debit in self.debits() if debit.release == release), None)

    def spend(self, debit: Debit, allowed: Callable[[tuple[Debit, ...]], None]) -> None:
        """Pay for a release, durably and once; send nothing of it before this returned.

        Spending the same debit again changes nothing and does not ask ``allowed``.

        Args:
            debit: what the release costs.
            allowed: is given all debits of the account, the new one last, and raises where
                that is too much; other processes wait meanwhile, so it must take well under
                30 s.

        Raises:
            FolderDiverged: the release was debited with another root or other fields.
            BudgetExceeded: or whatever ``allowed`` raises; nothing was written.
            FolderError: the file is locked for too long or the disk is full; nothing was
                written.
            Defect: a field is none that a release can have.
        """
        debit = _checked(debit)
        # One transaction that holds the write lock from the first read on: of two processes,
        # the second sees what the first has spent.
        with self._database.transaction():
            entries = self._accounts.entries()
            for entry in entries:
                if entry.debit is not None and entry.debit.release == debit.release:
                    self._check_same(entry, entry.debit, debit)
                    self._accounts.touch()
                    return
            allowed((*_debits(entries, self.data_id), debit))
            self._accounts.append(float(self._clock()), self.data_id, debit)

    def require(self, entries: Iterable[LedgerEntry]) -> None:
        """Check that everything a run folder recorded under differential privacy was paid.

        Debits of all accounts count: the folder may have begun with another data set.

        Args:
            entries: the run folder's ledger; rows without ε are passed over.

        Raises:
            LedgerTampered: a release has no debit, or one with another root: this file was
                replaced, put back from an old copy, or cut.
        """
        paid = {
            entry.debit.release: entry.debit.root
            for entry in self._accounts.entries()
            if entry.debit is not None
        }
        for entry in entries:
            row = entry.row
            if row.epsilon is None or paid.get(row.release) == row.root:
                continue
            root = paid.get(row.release)
            found = "it has no debit" if root is None else f"its debit is for root {root.hex()}"
            raise tampered(
                f"{self.path} is not the file that paid for round {row.round}, {row.kind} (row "
                f"{entry.number} of the run folder's ledger, root {row.root.hex()}): {found}"
            )

    def verify(self) -> int:
        """Recompute the chain over all accounts and return the number of rows.

        Raises:
            LedgerTampered: naming the file and the first row that is not as it was written.
        """
        return len(self._accounts.entries())

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _register(self, digest: bytes) -> None:
        with self._database.transaction():
            if not self._accounts.exist:
                self._database.create()
            opened = [
                entry.digest
                for entry in self._accounts.entries()
                if entry.data_id == self.data_id and entry.digest is not None
            ]
            # While nothing was spent, an account follows its data: a mistake costs nothing.
            if not opened or (opened[-1] != digest and not self.debits()):
                self._accounts.append(float(self._clock()), self.data_id, digest)
            elif opened[-1] != digest:
                raise DataError(
                    f"{self.path}: the account of data id {self.data_id} was opened for a data "
                    f"set with digest {opened[-1].hex()[:16]}, and the data now have digest "
                    f"{digest.hex()[:16]}",
                    "restore the data, or give the changed set a new [data] id; its spending "
                    "then starts at zero: for patients present in both sets the spending of "
                    "both adds up, and splitfed cannot see that",
                )

    def _check_same(self, entry: Entry, paid: Debit, debit: Debit) -> None:
        pairs: list[tuple[str, Any, Any]] = [("data id", entry.data_id, self.data_id)]
        pairs += [
            (name, getattr(paid, name), getattr(debit, name)) for name in Debit.__struct_fields__
        ]
        differ = [
            f"{name} {_shown(then)}, now {_shown(now)}" for name, then, now in pairs if then != now
        ]
        if differ:
            raise FolderDiverged(
                f"{self.path}: {entry} was debited with other bytes or terms "
                f"({'; '.join(differ)}): other noise must never be sent under the same name",
                "restore the run folder that made this release, or begin anew with another --out "
                "folder; what was debited stays spent",
            )


def _debits(entries: tuple[Entry, ...], data_id: str) -> tuple[Debit, ...]:
    return tuple(
        entry.debit for entry in entries if entry.debit is not None and entry.data_id == data_id
    )


def _checked(debit: Debit) -> Debit:
    """The debit as it will be read back: floats where floats belong, nothing impossible."""
    names = ("sample_rate", "noise_multiplier", "max_grad_norm")
    floats = {name: float(getattr(debit, name)) for name in names}
    wrong = [name for name, value in floats.items() if not (math.isfinite(value) and value > 0)]
    wrong += ["sample_rate"] if floats["sample_rate"] > 1 else []
    wrong += [name for name in ("release", "root") if len(getattr(debit, name)) != _DIGEST]
    wrong += ["round"] if debit.round < 1 else []
    wrong += ["steps"] if debit.steps < 0 else []
    if wrong:
        values = ", ".join(f"{name} = {_shown(getattr(debit, name))}" for name in wrong)
        raise Defect(f"round {debit.round}: the {debit.kind} was to be debited with {values}")
    return msgspec.structs.replace(debit, **floats)


def _shown(value: Any) -> str:
    return value.hex()[:16] if isinstance(value, bytes) else str(value)


def _make_private(path: Path) -> None:
    """Make the file if it is missing; close it to other users: SQLite's own would be open.

    Closing a descriptor takes SQLite's locks on the same file away from this whole process:
    the lock here keeps another thread from having any yet.
    """
    with _making, storage_errors(path):
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        if path.is_file() and path.stat().st_mode & 0o077:
            path.chmod(0o600)
