"""report.html: one self-contained file. Nothing in it asks another machine for anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from splitfed.report import classes, figures, fusion, guarantee, sentences, words
from splitfed.report.rows import ScoreRow
from splitfed.report.schema import SETUPS, Report, TensorRow

ROUNDS_SHOWN = 12
"""A table of more rounds than this starts folded."""
TENSORS_SHOWN = 24
"""A list of more tensors than this starts folded."""
CLASSIC = ("local_only", "partial", "full", "outputs_only", "fused")
"""The models of a party's page that are listed also where nobody measured them."""


def party_page(report: Report) -> str:
    """The page of one party's report."""
    return _render("party.html.j2", {report.party: report}, report=report)


def combined_page(reports: Mapping[str, Report], pages: Mapping[str, str]) -> str:
    """The page of several parties' reports of one federation, names in order.

    Args:
        pages: where a party's own page is, relative to this one; not every party needs one.
    """
    return _render("combined.html.j2", reports, pages=pages)


class Model(NamedTuple):
    """One row of the comparison table."""

    key: str
    label: str
    meaning: str
    row: ScoreRow | None
    chosen: bool
    kept: bool


class Scale(NamedTuple):
    """The axis of the interval plot, in accuracy."""

    low: float
    high: float
    ticks: tuple[float, ...]

    def at(self, value: float) -> float:
        """Where ``value`` lies, in percent of the width."""
        return round(100 * (value - self.low) / (self.high - self.low), 2)


class Slice(NamedTuple):
    """A part of the wall time."""

    label: str
    seconds: float
    share: float
    colour: str


def models(report: Report, setups: Sequence[str] | None = None) -> list[Model]:
    """The rows of the comparison; the model that the verdict speaks of is chosen.

    Args:
        setups: which; None: the classic ones, and of the others what was measured.
    """
    if setups is None:
        known = measured({report.party: report})
        setups = [key for key in SETUPS if key in CLASSIC or key in known]
    chosen = report.verdict.compared if report.verdict else "partial"
    return [
        Model(
            key,
            words.label(report, key),
            words.meaning(report, key),
            getattr(report.evaluation, key),
            key == chosen,
            key == words.kept(report),
        )
        for key in setups
    ]


def measured(reports: Mapping[str, Report]) -> list[str]:
    """The setups that at least one of the parties measured."""
    return [
        key
        for key in SETUPS
        if any(getattr(report.evaluation, key) is not None for report in reports.values())
    ]


def beyond_accuracy(reports: Mapping[str, Report]) -> bool:
    """Whether any model has a figure beside accuracy and loss; older reports have none."""
    rows = [getattr(report.evaluation, key) for report in reports.values() for key in SETUPS]
    return any(
        figure is not None
        for row in rows
        if row is not None
        for figure in (row.balanced_accuracy, row.auroc, row.calibration_error)
    )


def two_classes(reports: Mapping[str, Report]) -> list[str]:
    """The classes of which an AUROC can be asked for; [] where there are not exactly two."""
    return next((r.classes for r in reports.values() if len(r.classes) == 2), [])


def scale(reports: Mapping[str, Report]) -> Scale | None:
    """An axis that all intervals fit, with two to five round ticks; None without accuracy."""
    rows = [getattr(r.evaluation, key) for r in reports.values() for key in SETUPS]
    ends = [
        end
        for row in rows
        if row is not None and row.accuracy is not None
        for end in (row.accuracy_low, row.accuracy_high)
    ]
    if not ends:
        return None
    low, high = min(ends), max(ends)
    margin = max(high - low, 0.01) * 0.06
    low, high = max(low - margin, 0.0), min(high + margin, 1.0)
    step = next(s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / s < 5)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return Scale(low, high, tuple(round(i * step, 4) for i in range(first, last + 1)))


def time_slices(report: Report) -> list[Slice]:
    """The wall time by what it was spent on; what no figure names is 'everything else'."""
    time = report.time
    named = [
        ("Training", time.train_s, "var(--series-1)"),
        ("Training alone, to compare", time.baseline_s, "var(--series-4)"),
        ("Exchange", time.exchange_s, "var(--series-2)"),
        ("Waiting for peers that train", time.wait_s, "var(--series-5)"),
        ("Evaluation", time.evaluate_s, "var(--series-3)"),
        ("Start: imports, data, model", time.start_s, "var(--series-6)"),
    ]
    known = [(label, value, colour) for label, value, colour in named if value]
    wall = time.wall_s
    if not wall:
        return []
    rest = wall - sum(value for _, value, _ in known)
    if rest > 0.005 * wall:
        known.append(("Everything else", rest, "var(--muted)"))
    whole = max(wall, sum(value for _, value, _ in known))
    return [Slice(label, value, 100 * value / whole, c) for label, value, c in known]


def several_starts(report: Report) -> bool:
    """Whether more time was spent than the last process lived: the rounds tell of all of them."""
    wall = report.time.wall_s or 0.0
    return sum(part.seconds for part in time_slices(report)) > 1.001 * wall


def sent_in_all(report: Report) -> int | None:
    """Bytes on the wire over all rounds, also those before a restart, and what was released for
    fusion; the counters of the last process alone where no round was counted."""
    rounds = [row.bytes_sent for row in report.history if row.bytes_sent is not None]
    fused = report.fusion.payload_bytes if report.fusion else None
    total, last = sum(rounds) + (fused or 0), report.traffic.wire_bytes_sent
    return last if not rounds else max(total, last or 0)


def overhead(payload: int | None, wire: int | None) -> str:
    """How much more crossed the socket than the tensors' own bytes: '+4.0 %'."""
    if not payload or wire is None:
        return words.NONE
    return f"{100 * (wire / payload - 1):+.1f} %".replace("-", "−")


def total_bytes(tensors: Sequence[TensorRow]) -> int | None:
    """Bytes of all values together; None where a dtype is unknown."""
    sizes = [words.tensor_bytes(tensor) for tensor in tensors]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(sizes) else None


def _render(template: str, reports: Mapping[str, Report], **more: Any) -> str:
    page = _environment().get_template(template)
    return page.render(
        reports=reports,
        style=Markup(_source("style.css")),
        curves=Markup(figures.learning_curves(reports)),
        privacy_plot=Markup(figures.privacy_spent(reports)),
        traffic_plot=Markup(figures.traffic(reports)),
        setups=measured(reports),
        scale=scale(reports),
        beyond=beyond_accuracy(reports),
        binary=two_classes(reports),
        joined=any(fusion.agreed(report) for report in reports.values()),
        **more,
    )


def _source(name: str) -> str:
    return files("splitfed.report").joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,  # names come from files of several institutions
        loader=FunctionLoader(_source),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for helper in (
        words.percent, words.interval, words.number, words.count, words.size, words.seconds,
        words.shape, words.tensor_bytes, words.points, words.upward, words.power,
    ):  # fmt: skip
        environment.filters[helper.__name__] = helper
    environment.globals.update(
        models=models,
        verdict=sentences.verdict,
        ending=sentences.ending,
        told_faults=sentences.faults,
        evidence=sentences.evidence,
        time_slices=time_slices,
        several_starts=several_starts,
        overhead=overhead,
        sent_in_all=sent_in_all,
        total_bytes=total_bytes,
        label=words.label,
        subject=words.subject,
        kept=words.kept,
        dp_sgd=words.DP_SGD,
        guarantee=guarantee,
        fusion=fusion,
        by_class=classes.by_class,
        dash=words.NONE,
        rounds_shown=ROUNDS_SHOWN,
        tensors_shown=TENSORS_SHOWN,
    )
    return environment
