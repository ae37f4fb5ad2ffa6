"""Plots as SVG that takes its colours from the page, so that they suit light and dark.

matplotlib is told marker colours that no plot would use by chance; they are replaced by the
page's CSS variables afterwards. Text stays text. Nothing refers to anything outside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from splitfed.report.schema import HistoryRow, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = 6
"""Colours for lines; more parties begin again with another line style."""

_VARIABLES = {
    "#010203": "var(--ink)",
    "#010204": "var(--muted)",
    "#010205": "var(--line)",
    "#010206": "var(--page)",
    **{f"#0102{0x10 + i:02x}": f"var(--series-{i + 1})" for i in range(SERIES)},
}
_INK, _MUTED, _LINE, _PAGE = list(_VARIABLES)[:4]
_SERIES = list(_VARIABLES)[4:]
_WIDTH = 8.6
"""Inches; a full-width plot's letters then look as large as the page's notes."""
_STYLES = ("-", "--", ":", "-.")

_SETTINGS: dict[Any, Any] = {  # keys are checked by matplotlib itself
    "svg.fonttype": "none",
    "text.parse_math": False,  # a $ in a name is a $
    "font.family": ["DejaVu Sans"],  # ships with matplotlib; the page's font replaces it
    "font.size": 9.5,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _LINE,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.markersize": 5.5,
}


def learning_curves(reports: Mapping[str, Report]) -> str:
    """Training loss and validation accuracy of every round; void rounds and rounds trained
    alone are marked. "" where no round has a figure."""
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
                panel(axes, report.history, place, name if many else "")
            _round_axis(axes, rows)
        _legend(grid[-1], rows)

    width = _WIDTH if len(panels) == 2 else 0.7 * _WIDTH
    return _svg(
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
    unit, scale = next(
        (u, s)
        for u, s in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("bytes", 1))
        if most >= s
    )

    def draw(figure: Figure) -> None:
        grid = figure.subplots(1, len(reports), squeeze=False, sharey=True)[0]
        for axes, (name, report) in zip(grid, reports.items(), strict=True):
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
                    color=_SERIES[colour],
                    label=key.removeprefix("bytes_"),
                )
            axes.set_title(name if len(reports) > 1 else "")
            _round_axis(axes, report.history)
        grid[0].set_ylabel(f"{unit} on the wire")
        grid[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.0)

    return _svg(
        draw, (_WIDTH, 2.3), "traffic", "Bytes sent and received on the wire in every round"
    )


def _losses(axes: Axes, history: Sequence[HistoryRow], place: int, name: str) -> None:
    axes.set_title("Training loss")
    _line(axes, [(row, row.train_loss) for row in history], place, name)
    axes.set_ylim(bottom=0)


def _accuracies(axes: Axes, history: Sequence[HistoryRow], place: int, name: str) -> None:
    axes.set_title("Validation accuracy, %")
    alone = [(row, _in_percent(row.local_only_validation_accuracy)) for row in history]
    if not name and any(value is not None for _, value in alone):
        _line(axes, alone, 1, "trained alone", marks=False)
        name = "federated"
    _line(axes, [(row, _in_percent(row.validation_accuracy)) for row in history], place, name)


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
    colour, style = _SERIES[place % SERIES], _STYLES[place // SERIES % len(_STYLES)]
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


_FORMS: dict[str, dict[str, Any]] = {
    "agreed": {"marker": "o", "markeredgewidth": 1.2, "markeredgecolor": _PAGE},
    "void": {"marker": "X", "markersize": 8, "markeredgewidth": 1.2, "markeredgecolor": _PAGE},
    "alone": {"marker": "o", "markeredgewidth": 1.6, "markerfacecolor": _PAGE},
}
_TOLD = {"void": "void round", "alone": "trained alone, no exchange"}


def _legend(axes: Axes, rows: Sequence[HistoryRow]) -> None:
    from matplotlib.lines import Line2D

    handles, labels = axes.get_legend_handles_labels()
    for outcome, told in _TOLD.items():
        if any(row.outcome == outcome for row in rows):
            form = {"markeredgecolor": _MUTED, **_FORMS[outcome]}
            handles.append(Line2D([], [], linestyle="none", color=_MUTED, **form))
            labels.append(told)
    if handles:
        axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(1.0, 1.02))


def _round_axis(axes: Axes, rows: Sequence[HistoryRow]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("round")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    last = max((row.round for row in rows), default=1)
    axes.set_xlim(0.5, last + 0.5)


def _svg(draw: Callable[[Figure], None], inches: tuple[float, float], salt: str, label: str) -> str:
    """What ``draw`` draws, as an ``<svg>`` element for a page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # No pyplot: no global figures, no display, and any thread may draw. The salt makes ids
    # repeatable, and different for different plots on one page.
    with matplotlib.rc_context(_SETTINGS | {"svg.hashsalt": f"splitfed {salt}"}):
        figure = Figure(figsize=inches, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        draw(figure)
        for axes in figure.axes:
            axes.patch.set_alpha(0)
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _for_page(out.getvalue(), salt, label)


def _for_page(svg: str, salt: str, label: str) -> str:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href")
    # one page holds several plots: their ids must not meet
    body = re.sub(r'\bid="([^"]+)"', rf'id="{salt}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{salt}-\1"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{salt}-\1)", body)
    body = body.replace("'DejaVu Sans'", "var(--font)")
    for marker, variable in _VARIABLES.items():
        body = body.replace(marker, variable)
    opening = re.match(r"<svg[^>]*>", body)
    assert opening is not None
    view = re.search(r'viewBox="[^"]*"', opening[0])
    assert view is not None
    head = f'<svg {view[0]} role="img" aria-label="{label}" class="plot">'
    return head + body[opening.end() :]
