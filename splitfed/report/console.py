"""The comparison table in a terminal, and as plain lines where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from splitfed.report.fusion import kept_line
from splitfed.report.schema import SETUPS, Report, validate_all
from splitfed.report.sentences import verdict, verdict_sentence
from splitfed.report.words import LABELS, NONE, interval, kept, label, number, percent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

_WIDTH = 80
_COLUMN = 12
"""'93.4–95.7' with its margins and its border."""


def _measured(reports: Mapping[str, Report]) -> list[str]:
    """The setups that at least one party measured: an empty column helps nobody."""
    return [
        setup
        for setup in SETUPS
        if any(getattr(report.evaluation, setup) is not None for report in reports.values())
    ]


def _heading(reports: Mapping[str, Report], setup: str) -> str:
    """What all parties call a model; its usual name where they call it differently."""
    names = {label(report, setup) for report in reports.values()}
    return (names.pop() if len(names) == 1 else LABELS[setup]).lower()


def _cell(report: Report, setup: str) -> tuple[str, str]:
    """Main figure and interval; a regression shows its loss instead."""
    row = getattr(report.evaluation, setup)
    if row is None:
        return NONE, ""
    if row.accuracy is None:
        return f"loss {number(row.loss, 4)}", ""
    return percent(row.accuracy), interval(row)


def _short(bounds: str) -> str:
    """An interval short enough for five models in 80 columns: '93.4–95.7'."""
    return bounds.replace(" to ", "–")


def console_table(reports: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Every model of every party with its 95 % interval, at most 80 columns wide; below it, a
    line for each party with its verdict and the model it kept.

    Parties are rows and models columns as long as they fit; else every model has its own row.

    Args:
        reports: party -> report, one or more.

    Raises:
        Defect: a report lacks a key or has one of another type.
    """
    from rich.console import Group
    from rich.text import Text

    checked = validate_all(reports)
    setups = _measured(checked)
    verdicts = []
    for name, report in checked.items():
        said = verdict(report)
        line = Text.assemble(
            (f"{name}: ", "bold"), (f"{said.headline}. ", "bold"), said.reason, " "
        )
        verdicts.append(line.append(kept_line(report)))
    if not setups:
        return Group(*verdicts)
    wide = 4 + max(map(len, checked)) + _COLUMN * len(setups) > _WIDTH
    return Group(_long(checked, setups) if wide else _wide(checked, setups), *verdicts)


def _table() -> Table:
    from rich.table import Table

    title = "Accuracy on the own test images (95 % interval)"
    return Table(title=title, title_justify="left")


def _wide(reports: Mapping[str, Report], setups: list[str]) -> Table:
    """Parties as rows, models as columns, intervals below the figures."""
    from rich.text import Text

    table = _table()
    table.add_column("party", no_wrap=True)
    for setup in setups:
        table.add_column(_heading(reports, setup), justify="right")
    for name, report in reports.items():
        cells = []
        for setup in setups:
            main, bounds = _cell(report, setup)
            cells.append(Text.assemble(main, ("\n" + _short(bounds) if bounds else "", "dim")))
        table.add_row(Text(name), *cells)
    return table


def _long(reports: Mapping[str, Report], setups: list[str]) -> Table:
    """A row for each model, a block for each party."""
    from rich.text import Text

    table = _table()
    table.add_column("party", overflow="fold", max_width=22)
    table.add_column("model")
    table.add_column("accuracy", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    for name, report in reports.items():
        shown = [setup for setup in setups if getattr(report.evaluation, setup) is not None]
        for place, setup in enumerate(shown):
            main, bounds = _cell(report, setup)
            chosen = kept(report) == setup
            table.add_row(
                Text("" if place else name),
                Text(label(report, setup).lower(), "bold" if chosen else ""),
                Text(main, "bold" if chosen else ""),
                Text(_short(bounds), "dim"),
                end_section=place == len(shown) - 1,
            )
    return table


def plain_lines(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The same as :func:`console_table` as lines without any control character, one fact a
    line, for a log file or a pipe.

    Raises:
        Defect: a report lacks a key or has one of another type.
    """
    lines = []
    for name, report in validate_all(reports).items():
        for setup in _measured({name: report}):
            main, bounds = _cell(report, setup)
            told = f"{main} (95 % interval {bounds})" if bounds else main
            lines.append(f"{name}: {label(report, setup).lower()} ({setup}): {told}")
        lines.append(f"{name}: {verdict_sentence(report)}")
        if kept_line(report):
            lines.append(f"{name}: {kept_line(report)}")
    return [_printable(line) for line in lines]


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in line)
