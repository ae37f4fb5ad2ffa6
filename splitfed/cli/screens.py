"""What a person or a program sees of a run: a live display, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from splitfed.cli.output import fitted, printable
from splitfed.cli.words import whole_round
from splitfed.progress import Progress, Silent, lasting, reminders

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

STEP_EVERY = 0.1
"""Seconds between two steps that are told as JSON; the last of a round always is."""
WAIT_EVERY = 5.0
"""Seconds between two words about one wait that are told as JSON."""


class PlainLines:
    """One line a fact, for logs and pipes; steps are too many for lines.

    Args:
        label: put before each line, to tell two parties apart on one screen.
    """

    def __init__(self, label: str = "") -> None:
        self._label = f"{label}: " if label else ""
        self._last: dict[str, str] = {}
        self._reminded = 0
        self._waited = 0.0

    def on_phase(self, text: str) -> None:
        self._changed("", text)

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        pass

    def on_round(self, row: Mapping[str, Any]) -> None:
        self.say(whole_round(row))

    def on_peer(self, peer: str, text: str) -> None:
        self._changed(peer, f"{peer}: {text}")

    def on_waiting(self, what: str, seconds: float, how: str) -> None:
        """One line when the wait is news, after 1, 5 and 30 minutes, and every hour."""
        if seconds < self._waited:
            self._reminded = 0  # another wait
        self._waited, due = seconds, reminders(seconds)
        if due > self._reminded:
            again = f"still waiting, {lasting(seconds)} now," if self._reminded else "waiting"
            self.say(f"{again} for {what} ({how})")
        self._reminded = due

    def say(self, text: str) -> None:
        print(f"{self._label}{printable(text, keep=chr(10))}", flush=True)

    def _changed(self, who: str, text: str) -> None:
        """Says it unless it was the last that was said of ``who``."""
        if self._last.get(who) != text:
            self._last[who] = text
            self.say(text)


class JsonLines:
    """Every event as one JSON object a line, for a program such as the demo."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = -STEP_EVERY
        self._waited = -WAIT_EVERY

    def on_phase(self, text: str) -> None:
        self.tell("phase", text=text)

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        now = self._clock()
        if step == steps or now - self._told >= STEP_EVERY:
            self._told = now
            self.tell("step", round=round, step=step, steps=steps, loss=loss)

    def on_round(self, row: Mapping[str, Any]) -> None:
        self.tell("round", row=dict(row))

    def on_peer(self, peer: str, text: str) -> None:
        self.tell("peer", peer=peer, text=text)

    def on_waiting(self, what: str, seconds: float, how: str) -> None:
        if seconds < self._waited or seconds - self._waited >= WAIT_EVERY:
            self._waited = seconds
            self.tell("waiting", what=what, seconds=seconds, how=how)

    def say(self, text: str) -> None:
        self.tell("say", text=text)

    def tell(self, event: str, **fields: Any) -> None:
        """One line; ``event`` says which fields there are."""
        print(json.dumps({"event": event, **fields}), flush=True)


class LiveRow:
    """One party's row of a live display: its phase, a bar of its rounds, its peers."""

    def __init__(self, bars: Bars, label: str, rounds: int) -> None:
        self._bars = bars
        self._label = label
        self._task = bars.add_task("starting", total=rounds, label=label, detail="")
        self._closed = 0
        self._loss = ""
        self._wait = ""
        self._peers: dict[str, str] = {}

    def on_phase(self, text: str) -> None:
        self._wait = ""
        self._bars.update(self._task, description=printable(text))
        self._show()

    def on_step(self, round: int, step: int, steps: int, loss: float) -> None:
        self._loss = f"step {step}/{steps}, loss {loss:.3f}"
        self._bars.update(self._task, completed=round - 1 + step / (steps + 1))
        self._show()

    def on_round(self, row: Mapping[str, Any]) -> None:
        self.say(whole_round(row))
        self._loss = ""
        self._bars.update(self._task, completed=row["round"])
        self._show()

    def on_peer(self, peer: str, text: str) -> None:
        if "\n" in text and self._peers.get(peer) != text:
            self.say(f"{peer}: {text}")  # a diagnosis with its cure does not fit the row
        self._peers[peer] = text
        self._show()

    def on_waiting(self, what: str, seconds: float, how: str) -> None:
        text = f"waiting {lasting(seconds)} for {what}"
        self._bars.update(self._task, description=printable(text))
        self._wait = how
        self._show()

    def say(self, text: str) -> None:
        label = f"{self._label}: " if self._label else ""
        console = self._bars.console
        told = fitted(label + printable(text, keep="\n"), console.width)
        console.print(told, highlight=False, markup=False, soft_wrap=True)

    def _show(self) -> None:
        peers = [f"{peer}: {text.splitlines()[0]}" for peer, text in sorted(self._peers.items())]
        parts = (self._wait,) if self._wait else (self._loss, *peers)
        detail = "  ".join(part for part in parts if part)
        self._bars.update(self._task, detail=printable(detail))


@contextmanager
def screen(rounds: int, *, how: str = "auto") -> Iterator[Callable[[str], Progress]]:
    """Gives a progress for each party by its label; "" for the only one.

    Args:
        rounds: length of the bars.
        how: "auto" (live in a terminal, plain lines elsewhere), "json" or "silent".
    """
    if how == "silent":
        yield lambda label: Silent()
    elif how == "json":
        lines = JsonLines()
        yield lambda label: lines
    elif not sys.stdout.isatty():
        yield PlainLines
    else:
        with _bars() as bars:
            yield lambda label: LiveRow(bars, label, rounds)


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    return Bars(
        TextColumn("{task.fields[label]}", markup=False),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn(
            "{task.fields[detail]}",
            markup=False,
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=Console(file=sys.stdout),
        expand=True,
        transient=True,
    )
