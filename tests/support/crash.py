"""A disk that stops a process at any durable point, and the images a crash can leave.

The model is strict: what was written is lost unless the file was synced, and a name is lost
unless its folder was synced afterwards. SQLite's own files are copied as they are; a commit
is one durable point, and WAL with ``synchronous=FULL`` makes it all or nothing.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from splitfed.store.durable import Bytes, Disk

Image = Literal["killed", "lost", "torn"]
IMAGES: tuple[Image, ...] = ("killed", "lost", "torn")
"""What survives: everything (the process was killed); only what was synced (power loss, the
worst case); all names, but of unsynced contents only the first half."""

MODELLED = ("outbox", "inbox", "checkpoints")


class Crash(BaseException):
    """The process ends here; nothing may catch it and tidy up."""


@dataclass
class Content:
    """One file behind whatever name: its bytes now, and those that are synced."""

    now: bytes
    synced: bytes


class QuickDisk(Disk):
    """Syncs nothing: for tests that live hundreds of lives and in which no machine fails."""

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        path.write_bytes(b"".join(bytes(part) for part in parts))

    def fsync_dir(self, folder: Path) -> None:
        pass

    def commit(self, connection: sqlite3.Connection) -> None:
        super().commit(connection)
        connection.execute("PRAGMA synchronous = OFF")  # SQLite allows it between transactions


class CrashDisk(QuickDisk):
    """Counts durable points and, once armed, crashes at one of them.

    The image is made at the moment of the crash: what the dying process would still tidy
    up on its way out is not in it. What is synced is kept in mind, and nothing in earnest.

    Args:
        root: the run folder; what is in it now counts as synced.

    Attributes:
        points: what was done, or begun, at each durable point so far.
        died: called at the crash, before its image is made.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.points: list[str] = []
        self.died: Callable[[], None] = lambda: None
        self.plan: tuple[int | str, Path, Image] | None = None
        self._now: dict[Path, Content] = {}
        for name in MODELLED:
            for path in (root / name).glob("*"):
                data = path.read_bytes()
                self._now[path] = Content(data, data)
        self._durable = dict(self._now)

    def arm(self, stop: int | str, target: Path, kind: Image) -> None:
        """Count from 0 again and crash before point ``stop``, leaving ``kind`` at ``target``.
        A text is what the point does: the first of that name, however many came before it."""
        self.points = []
        self.plan = (stop, target, kind)

    def _point(self, what: str) -> None:
        if self.plan is not None and self.plan[0] in (len(self.points), what):
            _, target, kind = self.plan
            self.died()
            self.image(target, kind)
            raise Crash(what)
        self.points.append(what)

    def make_dir(self, folder: Path) -> None:
        self._point(f"make {folder.name}")
        super().make_dir(folder)

    def write_file(self, path: Path, parts: Iterable[Bytes]) -> None:
        self._point(f"write {path.name}")
        data = b"".join(bytes(part) for part in parts)
        super().write_file(path, (data,))
        content = self._now[path] = Content(data, b"")
        self._point(f"sync {path.name}")
        content.synced = data

    def rename(self, source: Path, target: Path) -> None:
        self._point(f"rename {target.name}")
        super().rename(source, target)
        self._now[target] = self._now.pop(source)

    def fsync_dir(self, folder: Path) -> None:
        self._point(f"sync folder {folder.name}")
        super().fsync_dir(folder)
        for names in (self._durable, self._now):
            for path in [path for path in names if path.parent == folder]:
                if path in self._now:
                    self._durable[path] = self._now[path]
                else:
                    del self._durable[path]

    def remove(self, path: Path) -> None:
        self._point(f"remove {path.name}")
        super().remove(path)
        self._now.pop(path, None)

    def commit(self, connection: sqlite3.Connection) -> None:
        self._point("commit")
        super().commit(connection)

    def image(self, target: Path, kind: Image) -> Path:
        """Make the folder that the next process finds, at ``target``."""
        if not self.root.exists():
            return target
        shutil.copytree(self.root, target, ignore=_left_out)
        for path, content in (self._durable if kind == "lost" else self._now).items():
            data = content.now if kind == "killed" else content.synced
            if kind == "torn" and content.synced != content.now:
                data = content.now[: len(content.now) // 2]
            there = target / path.relative_to(self.root)
            if there.parent.name in MODELLED:
                there.write_bytes(data)
        return target


def _left_out(folder: str, names: list[str]) -> set[str]:
    """What is not copied: modelled files, and the shared memory that dies with its processes."""
    if Path(folder).name in MODELLED:
        return set(names)
    return {name for name in names if name.endswith("-shm")}
