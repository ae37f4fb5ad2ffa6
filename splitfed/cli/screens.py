"""What a person sees of a run: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from splitfed.cli.words import whole_round


class PlainLines:
    """One line a fact, for logs and pipes.

    Args:
        label: put before each line, to tell two parties apart on one screen.
        quiet: print nothing (``--json`` keeps the output for the program that reads it).
    """

    def __init__(self, label: str = "", *, quiet: bool = False) -> None:
        self._label = f"{label}: " if label else ""
        self._quiet = quiet
        self._last = ""

    def on_phase(self, text: str) -> None:
        self._print(text)

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        """Steps are too many for lines."""

    def on_round(self, row: Mapping[str, Any]) -> None:
        self._print(whole_round(row))

    def on_peer(self, peer: str, text: str) -> None:
        self._print(f"{peer}: {text}")

    def say(self, text: str) -> None:
        self._print(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def _print(self, text: str) -> None:
        if not self._quiet and text != self._last:
            self._last = text
            print(f"{self._label}{text}", flush=True)


class LiveLine(PlainLines):
    """A bar of the rounds with the current phase, loss, bytes and the peers' phases."""

    def __init__(self, rounds: int) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(file=sys.stdout),
            transient=True,
        )
        self._task = self._bar.add_task("starting", total=rounds, detail="")
        self._peers: dict[str, str] = {}
        self._loss = ""

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def on_phase(self, text: str) -> None:
        self._bar.update(self._task, description=text)
        self._show()

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        self._loss = f"step {step}/{steps}, loss {loss:.3f}"
        self._show()

    def on_round(self, row: Mapping[str, Any]) -> None:
        self._bar.console.print(whole_round(row), highlight=False)
        self._bar.update(self._task, completed=row["round"])
        self._loss = ""

    def on_peer(self, peer: str, text: str) -> None:
        self._peers[peer] = text
        self._show()

    def say(self, text: str) -> None:
        self._bar.console.print(text, highlight=False)

    def _show(self) -> None:
        peers = "; ".join(f"{peer}: {text}" for peer, text in sorted(self._peers.items()))
        detail = " | ".join(part for part in (self._loss, peers) if part)
        self._bar.update(self._task, detail=detail.splitlines()[0] if detail else "")


def screen(rounds: int, *, quiet: bool = False) -> PlainLines:
    """A live line where standard output is a terminal, plain lines elsewhere."""
    if not quiet and sys.stdout.isatty():
        return LiveLine(rounds)
    return PlainLines(quiet=quiet)
