"""The plots of a report: learning, privacy spent, traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from splitfed.report.drawing import BAD, MUTED, PAGE, SERIES, STYLES, WIDTH, svg
from splitfed.report.schema import HistoryRow, Report
from splitfed.report.words import DP_SGD, exact, power, upward

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABREAST = 4
"""Parties whose traffic is drawn in one row."""


def learning_curves(reports: Mapping[str, Report]) -> str:
    """Training loss and validation accuracy of every round; void rounds, rounds trained alone
    and missed ones are marked. "" where no round has a figure."""
    rows = [row for report in reports.values() for row in report.history]
    losses = any(row.train_loss is not None for row in rows)
    accuracies = any(row.validation_accuracy is not None for row in rows)
    panels = [panel for panel, known in ((_losses, losses), (_accuracies, accuracies)) if known]
    if not panels:
        return ""

    def draw(figure: Figure) -> None:
        many = len(reports) > 1
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            for place, (name, report) in enumerate(reports.items()):
                panel(axes, report, place, name if many else "")
            _round_axis(axes, rows)
        _legend(grid[-1], rows)

    width = WIDTH if len(panels) == 2 else 0.7 * WIDTH
    return svg(
        draw,
        (width, 3.1),
        "curves",
        "Learning curves: training loss and validation accuracy of every round",
    )


def traffic(reports: Mapping[str, Report]) -> str:
    """Bytes on the wire in every round, sent and received. "" where none were counted."""
    rows = [row for report in reports.values() for row in report.history]
    most = max((b for row in rows for b in (row.bytes_sent, row.bytes_received) if b), default=0)
    if not most:
        return ""
    wide = min(len(reports), ABREAST)
    high = -(-len(reports) // wide)
    unit, scale = next(
        (u, s)
        for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))
        if most >= s
    )

    def draw(figure: Figure) -> None:
        cells = figure.subplots(high, wide, squeeze=False, sharey=True)
        grid = cells.flatten()
        for axes in grid[len(reports) :]:
            axes.set_visible(False)
        for axes, (name, report) in zip(grid, reports.items(), strict=False):
            for offset, key, colour in ((-0.2, "bytes_sent", 0), (0.2, "bytes_received", 1)):
                known = [
                    (r.round + offset, getattr(r, key) / scale)
                    for r in report.history
                    if getattr(r, key) is not None
                ]
                axes.bar(
                    [x for x, _ in known],
                    [y for _, y in known],
                    width=0.36,
                    color=SERIES[colour],
                    label=key.removeprefix("bytes_"),
                )
            axes.set_title(name if len(reports) > 1 else "")
            _round_axis(axes, report.history)
        for row in cells:
            row[0].set_ylabel(f"{unit} on the wire")
        legend = cells[0, min(wide, len(reports)) - 1]
        legend.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.0)

    return svg(
        draw, (WIDTH, 2.3 * high), "traffic", "Bytes sent and received on the wire in every round"
    )


def privacy_spent(reports: Mapping[str, Report]) -> str:
    """ε of all releases up to every round, the planned total and the budgets. Parties with
    equal figures share a line. "" without privacy, or before the first round."""
    private = {name: report for name, report in reports.items() if report.privacy.mode != "none"}
    lines: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, report in private.items():
        known = tuple((row.round, row.epsilon) for row in report.history if row.epsilon is not None)
        if known:
            lines.setdefault(known, []).append(name)
    if not lines:
        return ""

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for place, names in enumerate(lines.values()):
            history = private[names[0]].history
            told = _whose(names, reports) or "spent by this run"
            _line(axes, [(row, row.epsilon) for row in history], place, told)
            _other_runs(axes, private, names, place)
        _limits(axes, private)
        _round_axis(
            axes,
            [row for report in private.values() for row in report.history],
            max(report.rounds for report in private.values()),
        )
        _from_zero(axes)
        deltas = {power(report.privacy.delta) for report in private.values()}
        axes.set_title("Privacy spent, ε" + (f" at δ = {deltas.pop()}" if len(deltas) == 1 else ""))
        _legend(axes, [row for report in private.values() for row in report.history])

    return svg(
        draw, (WIDTH, 2.5), "privacy", "Privacy spent: epsilon of all releases up to every round"
    )


def _whose(names: Sequence[str], reports: Mapping[str, Report]) -> str:
    """The parties that a line stands for; "" where there is only one party at all."""
    if len(reports) == 1:
        return ""
    return "every party" if len(names) == len(reports) else ", ".join(names)


def _of(names: Sequence[str], everybody: Mapping[str, Report]) -> str:
    """' of hospital-a'; "" where it holds for everybody."""
    return "" if len(names) == len(everybody) else f" of {', '.join(names)}"


def _other_runs(
    axes: Axes, private: Mapping[str, Report], names: Sequence[str], place: int
) -> None:
    """What the account has spent in all, where this run was not the only one."""
    spent: dict[float, list[str]] = {}
    for name in names:
        account = private[name].privacy.account
        if account is None or account.spent_epsilon is None or account.runs < 2:
            continue
        if account.delta == private[name].privacy.delta:  # else not to be compared
            spent.setdefault(account.spent_epsilon, []).append(name)
    for value, whose in spent.items():
        axes.plot(
            [max(row.round for row in private[names[0]].history)],
            [value],
            linestyle="none",
            marker="D",
            markersize=6.5,
            color=SERIES[place % len(SERIES)],
            label=f"all runs on the data{_of(whose, private)}: {upward(value)}",
            zorder=3,
        )


def _limits(axes: Axes, private: Mapping[str, Report]) -> None:
    """The planned total and the budgets as lines across; equal ones are one line."""
    thin: dict[str, Any] = {"linewidth": 1.4, "zorder": 1.9}
    planned = {report.privacy.epsilon for report in private.values()} - {None}
    budgets: dict[tuple[float, str], list[str]] = {}
    for name, report in private.items():
        account = report.privacy.account
        if account is None or account.budget_epsilon is None:
            continue
        other = "" if account.delta == report.privacy.delta else f" at δ = {power(account.delta)}"
        budgets.setdefault((account.budget_epsilon, other), []).append(name)
    for value in sorted(value for value in planned if value is not None):
        same = next((b for b in budgets if abs(b[0] - value) < 0.01 and not b[1]), None)
        told = f"planned total: {upward(value)}"
        if same is not None:
            told = f"planned total, and budget{_of(budgets.pop(same), private)}: {exact(same[0])}"
        axes.axhline(value, color=MUTED, linestyle=(0, (6, 3)), **thin, label=told)
    for (value, other), names in budgets.items():
        told = f"budget{_of(names, private)}: {exact(value)}{other}"
        axes.axhline(value, color=BAD, linestyle=(0, (2, 2)), **thin, label=told)


def _losses(axes: Axes, report: Report, place: int, name: str) -> None:
    axes.set_title("Training loss")
    _line(axes, [(row, row.train_loss) for row in report.history], place, name)
    _from_zero(axes)


def _accuracies(axes: Axes, report: Report, place: int, name: str) -> None:
    noised = report.privacy.mode in DP_SGD  # until the last round there is no other model
    axes.set_title(f"Validation accuracy{' of the noised model' if noised else ''}, %")
    history = report.history
    alone = [(row, _in_percent(row.local_only_validation_accuracy)) for row in history]
    if not name and any(value is not None for _, value in alone):
        _line(axes, alone, 1, "trained alone", marks=False)
        name = "noised" if noised else "federated"
    _line(axes, [(row, _in_percent(row.validation_accuracy)) for row in history], place, name)


def _from_zero(axes: Axes) -> None:
    """An axis from 0, with room for the marks of the highest points."""
    top = 1.07 * axes.dataLim.y1
    axes.set_ylim(0, top if top > 0 else 1)


def _in_percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _line(
    axes: Axes,
    points: Sequence[tuple[HistoryRow, float | None]],
    place: int,
    name: str,
    marks: bool = True,
) -> None:
    """One series; a point's form tells the round's outcome, not its colour alone."""
    known = [(row, value) for row, value in points if value is not None]
    colour, style = SERIES[place % len(SERIES)], STYLES[place // len(SERIES) % len(STYLES)]
    axes.plot(
        [row.round for row, _ in known],
        [value for _, value in known],
        color=colour,
        linestyle=style,
        label=name or "_",
        zorder=2,
    )
    if not marks:
        return
    for outcome, form in _FORMS.items():
        chosen = [(row.round, value) for row, value in known if row.outcome == outcome]
        axes.plot(
            [x for x, _ in chosen],
            [y for _, y in chosen],
            linestyle="none",
            zorder=3,
            color=colour,
            **form,
        )
    # A missed round has no figure: its mark stands at the bottom.
    missed = [row.round for row, value in points if row.outcome == "missed" and value is None]
    axes.plot(
        missed,
        [0.03] * len(missed),
        transform=axes.get_xaxis_transform(),
        linestyle="none",
        zorder=3,
        color=colour,
        **_FORMS["missed"],
    )


_FORMS: dict[str, dict[str, Any]] = {
    "agreed": {"marker": "o", "markeredgewidth": 1.2, "markeredgecolor": PAGE},
    "void": {"marker": "X", "markersize": 8, "markeredgewidth": 1.2, "markeredgecolor": PAGE},
    "alone": {"marker": "o", "markeredgewidth": 1.6, "markerfacecolor": PAGE},
    "missed": {"marker": "s", "markersize": 5, "markeredgewidth": 1.4, "markerfacecolor": PAGE},
}
_TOLD = {
    "void": "void round",
    "alone": "trained alone, no exchange",
    "missed": "missed, the others went on",
}


def _legend(axes: Axes, rows: Sequence[HistoryRow]) -> None:
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    for outcome, told in _TOLD.items():
        if any(row.outcome == outcome for row in rows):
            form = {"markeredgecolor": MUTED, **_FORMS[outcome]}
            handles.append(Line2D([], [], linestyle="none", color=MUTED, **form))
            labels.append(told)
    if handles:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _round_axis(axes: Axes, rows: Sequence[HistoryRow], least: int = 1) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    last = max((row.round for row in rows), default=1)
    last = max(last, least)
    axes.set_xlim(0.5, last + 0.5)
