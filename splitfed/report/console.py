"""The comparison table in a terminal, and as plain lines where there is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from splitfed.report.schema import SETUPS, Report, validate_all
from splitfed.report.words import LABELS, NONE, interval, label, number, percent, verdict_sentence

if TYPE_CHECKING:
    from rich.console import RenderableType


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


def _below(bounds: str) -> str:
    """The interval's own line, short enough for five models in 80 columns: '93.4–95.7'."""
    return "\n" + bounds.replace(" to ", "–") if bounds else ""


def console_table(reports: Mapping[str, Mapping[str, Any]]) -> RenderableType:
    """Parties as rows, models as columns, 95 % intervals below the figures, verdicts below.

    Args:
        reports: party -> report, one or more.

    Raises:
        Defect: a report lacks a key or has one of another type.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    checked = validate_all(reports)
    table = Table(title="Accuracy on the own test images (95 % interval)", title_justify="left")
    table.add_column("party", no_wrap=True)
    setups = _measured(checked)
    for setup in setups:
        table.add_column(_heading(checked, setup), justify="right")
    for name, report in checked.items():
        cells = []
        for setup in setups:
            main, bounds = _cell(report, setup)
            cells.append(Text.assemble(main, (_below(bounds), "dim")))
        table.add_row(Text(name), *cells)
    verdicts = [
        Text.assemble((f"{name}: ", "bold"), verdict_sentence(report))
        for name, report in checked.items()
    ]
    return Group(table, *verdicts) if setups else Group(*verdicts)


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
    return [_printable(line) for line in lines]


def _printable(line: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in line)
