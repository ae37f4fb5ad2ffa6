"""What a report says about differential privacy, for somebody who answers for the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from splitfed.report.schema import AccountPart, PrivacyPart, Report
from splitfed.report.words import (
    NONE,
    count,
    exact,
    number,
    percent,
    points,
    power,
    subject,
    upward,
)

NEARLY = 0.9
"""The part of a budget from which on it counts as nearly spent."""
_LAST = 0.995
"""From here on nothing worth a round is left of it."""

_MODES = {
    "dp-frozen": "the shared layers are trained with noise, the private ones stand still at "
    "public values meanwhile",
    "dp-all": "all layers are trained with noise, only the shared ones are sent",
    "party-update": "every update is clipped and noised as a whole before it is sent",
}
_PROTECTED = {"record": "each record", "patient": "each patient", "party": "the whole party"}
_WITHOUT = {
    "record": "leave any one record out of the training",
    "patient": "leave all images of any one patient out of the training",
    "party": "put any other data set in the place of the sending party's",
}
_ABOUT = {"record": "that record", "patient": "that patient", "party": "these data"}


class Figure(NamedTuple):
    """A line of the table: what it is, and its value in every column."""

    label: str
    note: str
    values: tuple[str, ...]


class Table(NamedTuple):
    """The mechanism's figures; parties that have equal ones share a column, which has
    no name when it is the only one."""

    columns: tuple[str, ...]
    rows: tuple[Figure, ...]


class Standing(NamedTuple):
    """The privacy account of a data set as a sentence, and what to be warned of."""

    sentence: str
    warnings: tuple[str, ...]


def protected(privacy: PrivacyPart) -> str:
    """Whom the promise is about: 'each record', 'each patient', 'the whole party'."""
    return _unit(privacy.unit) if privacy.unit else NONE


def promises(reports: Mapping[str, Report]) -> list[tuple[str, str, str]]:
    """The parties' promises: the names they hold for ("" for all), the sentence, and the same
    in plain words ("" without privacy)."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, report in reports.items():
        said = report.privacy.sentence, plain_words(report.privacy)
        found.setdefault(said, []).append(name)
    alone = len(found) == 1
    return [("" if alone else ", ".join(names), *said) for said, names in found.items()]


def plain_words(privacy: PrivacyPart) -> str:
    """What (ε, δ) means (Dwork & Roth 2014, definition 2.4) without a formula's help."""
    if privacy.mode == "none" or privacy.epsilon is None or privacy.delta is None:
        return ""
    unit = privacy.unit or "unit"
    shown = float(upward(privacy.epsilon))
    return (
        f"In plain words: {_WITHOUT.get(unit, f'leave any one {unit} out of the training')}, and "
        "the chance of whatever the others conclude from all messages changes by a factor of at "
        f"most e^ε = {factor(shown)}, but for a remainder of at most δ = {power(privacy.delta)}. "
        f"The nearer the factor is to 1, the less can be learnt about "
        f"{_ABOUT.get(unit, f'that {unit}')}."
    )


def factor(epsilon: float) -> str:
    """e^ε, rounded up: 1 → '2.8', 8 → '2,981', 20 → '4.9 × 10⁸'."""
    value = math.exp(epsilon)
    if value < 10:
        return upward(value, 1)
    return count(math.ceil(value)) if value < 1e6 else power(value, 2)


def table(reports: Mapping[str, Report]) -> Table:
    """The figures of every party that has privacy; no column where none has."""
    behind = any(partly(report.privacy) for report in reports.values())
    columns: dict[tuple[Figure, ...], list[str]] = {}
    for name, report in reports.items():
        if report.privacy.mode != "none":
            columns.setdefault(_figures(report.privacy, behind), []).append(name)
    rows = tuple(
        Figure(same[0].label, same[0].note, tuple(figure.values[0] for figure in same))
        for same in zip(*columns, strict=True)
    )
    names = tuple(", ".join(names) for names in columns.values())
    return Table(("",) if len(names) == 1 else names, rows)


def _figures(privacy: PrivacyPart, behind: bool) -> tuple[Figure, ...]:
    whole = privacy.mode == "party-update"
    each = privacy.unit or "unit"
    length = "S" if whole else "C"
    released = privacy.released_epsilon

    def figure(label: str, note: str, value: str) -> Figure:
        return Figure(label, note, (value,))

    lines = [
        figure("Mode", _MODES.get(privacy.mode, ""), privacy.mode),
        figure(
            "Protects", "against the other parties, in everything that is sent", protected(privacy)
        ),
        figure(
            "ε for all planned rounds",
            f"by the {privacy.accountant or 'privacy'} accountant, rounded up; in brackets "
            "by another one, as a check",
            f"{upward(privacy.epsilon)} (RDP {number(privacy.epsilon_rdp, 2)})",
        ),
    ]
    if behind:
        lines.append(
            figure(
                "ε released so far",
                "what the rounds that took place have cost of it",
                upward(released),
            )
        )
    sampled = f"the chance of each {each} to be drawn for a step"
    return (
        *lines,
        figure("δ", "the probability with which ε may fail to hold", power(privacy.delta)),
        figure(
            "Noise multiplier σ",
            f"the noise's standard deviation, in units of {'2S' if whole else 'C'}",
            exact(privacy.noise_multiplier, 0),
        ),
        figure(
            f"Clipping norm {length}",
            "the length to which a whole update is cut"
            if whole
            else f"the most that one {each} can add to a step",
            exact(privacy.max_grad_norm, 0),
        ),
        figure(
            "Sample rate q",
            "no sampling: every update uses everything" if whole else sampled,
            exact(privacy.sample_rate, 0),
        ),
        figure(
            "Planned steps",
            "one noised update a round" if whole else "of all rounds",
            count(privacy.steps),
        ),
    )


def partly(privacy: PrivacyPart) -> bool:
    """Whether less was released than planned."""
    if privacy.released_epsilon is None:
        return False
    return upward(privacy.released_epsilon) != upward(privacy.epsilon)


def standing(report: Report) -> Standing:
    """Where the data set's account stands; no sentence under mode "none"."""
    account = report.privacy.account
    if report.privacy.mode == "none":
        return Standing("", ())
    if account is None:
        return Standing("No account was kept: a simulation releases nothing.", ())
    spent = f"ε = {upward(account.spent_epsilon)}"
    if account.spent_epsilon is None:
        spent = "more than an ε that would mean anything"
    of = (
        "" if account.budget_epsilon is None else f" of a budget of {exact(account.budget_epsilon)}"
    )
    no_limit = (
        "; no budget is set ([data] budget_epsilon in party.toml)"
        if account.budget_epsilon is None
        else ""
    )
    return Standing(
        f"Account of data set {account.data_id}: {spent}{of} is spent at δ = "
        f"{power(account.delta)}, by {_counted(account.releases, 'release')} of "
        f"{_counted(account.runs, 'run')}{no_limit}.",
        tuple(_warnings(account, report.outcome)),
    )


def _warnings(account: AccountPart, outcome: str | None) -> list[str]:
    told = []
    if len(account.units) > 1:
        units = " and ".join(_unit(unit) for unit in account.units)
        told.append(
            f"The runs protected different things: {units}. The sum is kept, but it is not a "
            "guarantee for any one of them."
        )
    spent, budget = account.spent_epsilon, account.budget_epsilon
    if budget is None:
        return told
    if outcome == "budget" or spent is None or spent >= _LAST * budget:
        told.append(
            "What is left of the budget is too little for another round: none is begun until "
            "[data] budget_epsilon in party.toml is raised."
        )
    elif spent >= NEARLY * budget:
        told.append(
            f"The budget is nearly spent ({100 * spent / budget:.0f} %): a round that would "
            "exceed it is not begun."
        )
    return told


def cost(report: Report) -> str:
    """What privacy cost on the own test images, without a claim beyond the verdict; "" where
    nothing can be compared."""
    own = report.evaluation
    if report.privacy.mode == "none" or own.partial is None or own.partial.accuracy is None:
        return ""
    mine, told = own.partial.accuracy, []
    if own.without_privacy is not None and own.without_privacy.accuracy is not None:
        other = own.without_privacy.accuracy
        told.append(
            f"{points(mine - other)} percentage points against the same sharing without privacy "
            f"({percent(other)}; not tested for chance)"
        )
    if own.local_only is not None and own.local_only.accuracy is not None:
        other = own.local_only.accuracy
        told.append(
            f"{points(mine - other)} percentage points against the model trained alone "
            f"({percent(other)}; {_judged(report)})"
        )
    if not told:
        return ""
    who = subject(report, "partial")
    return (
        f"What privacy cost: {who} is right on {percent(mine)} of the test images. That is "
        f"{' and '.join(told)}."
    )


def _judged(report: Report) -> str:
    """What the verdict says of own model and model trained alone, and nothing beyond it."""
    if report.verdict is None or report.verdict.compared != "partial":
        return "not tested for chance"
    return {
        "helped": "better, says the verdict",
        "did not help": "not better, says the verdict",
        "undecided": "undecided, says the verdict",
    }[report.verdict.answer]


def _unit(unit: str) -> str:
    return _PROTECTED.get(unit, f"each {unit}")


def _counted(amount: int, what: str) -> str:
    return f"{count(amount)} {what}{'' if amount == 1 else 's'}"
