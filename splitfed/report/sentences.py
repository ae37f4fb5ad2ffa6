"""The sentences that say what a report means."""

from __future__ import annotations

from typing import NamedTuple

from splitfed.report.schema import Alarm, Report, ViewPart
from splitfed.report.words import count, listed, number, percent, points, spans, subject


class Verdict(NamedTuple):
    """The answer in words: a headline and what it rests on."""

    kind: str  # "helped", "not-helped", "undecided" or "none": for colours, never alone
    headline: str
    reason: str


def verdict(report: Report) -> Verdict:
    """The verdict in plain words. Success and failure are told in the same tone."""
    found, evaluation = report.verdict, report.evaluation
    alone = evaluation.local_only
    other = None if found is None else getattr(evaluation, found.compared)
    if (
        found is None
        or alone is None
        or other is None
        or alone.accuracy is None
        or other.accuracy is None
    ):
        return Verdict("none", "There is no verdict", _no_verdict(report))
    gain = other.accuracy - alone.accuracy
    who = subject(report, found.compared)
    if abs(gain) < 0.0005:
        compared = f"{who} is right as often as the model trained alone"
    else:
        more = "more" if gain > 0 else "less"
        compared = (
            f"{who} is right {points(abs(gain)).lstrip('+')} percentage points {more} often "
            "than the model trained alone"
        )
    where = f"On {report.party}'s own {count(evaluation.test_size)} test images "
    bounds = f" (95 % interval of the difference: {points(found.low)} to {points(found.high)})"
    if found.answer == "helped":
        return Verdict("helped", "Federation helped you", f"{where}{compared}{bounds}.")
    if found.answer == "did not help":
        return Verdict("not-helped", "Federation did not help you", f"{where}{compared}{bounds}.")
    return Verdict(
        "undecided",
        "Undecided whether federation helped you",
        f"{where}{compared}{bounds}: too little to tell from chance with these images.",
    )


def _no_verdict(report: Report) -> str:
    evaluation = report.evaluation
    if evaluation.partial is None:
        return "No test images were evaluated."
    if evaluation.partial.accuracy is None:
        loss = number(evaluation.partial.loss, 4)
        losses = f"{subject(report, 'partial')}'s test loss is {loss}"
        if evaluation.local_only is not None:
            losses += f", that of the model trained alone {number(evaluation.local_only.loss, 4)}"
        return f"A regression has no accuracy to compare; {losses}."
    if evaluation.local_only is None:
        return (
            "The model trained alone was not measured, so there is nothing to compare with. "
            "Set [defence] acceptance = true in party.toml before the first run, or with another "
            "--out."
        )
    return "The two models were not compared on the same images."


def verdict_sentence(report: Report) -> str:
    """The verdict as one line for a terminal."""
    said = verdict(report)
    return f"{said.headline}. {said.reason}"


def ending(report: Report) -> str:
    """What the reader must know about how the run ended and which model was saved; "" when it
    ended as agreed and the federated or the fused one was."""
    return " ".join(text for text in (_ended(report), _saved(report)) if text)


def _saved(report: Report) -> str:
    if report.kept == "local_only":
        return (
            "The model that was saved is the one trained alone: on this party's own validation "
            "images no other was better by more than one standard error, whatever the test images "
            "say."
        )
    if report.kept == "partial" and report.evaluation.fused is not None:
        return (
            f"The model that was saved is {subject(report, 'partial')}, not the fused one: fusion "
            "made it no better on this party's own validation images, whatever the test images say."
        )
    return ""


def _ended(report: Report) -> str:
    if report.outcome in ("budget", "excluded"):
        stopped = {
            "budget": "Privacy budget spent",
            "excluded": "Stopped, because this party's own updates were refused",
        }
        because = report.ended_because or ""
        told = [
            stopped[report.outcome],
            because[:1].upper() + because[1:],
            f"{len(report.history)} of {report.rounds} rounds took place; the model so far was "
            "fitted, measured and kept",
        ]
        return " ".join(f"{text}." for text in told if text)
    if report.outcome == "alone" or any(row.outcome == "alone" for row in report.history):
        alone = sum(row.outcome == "alone" for row in report.history)
        why = f": {report.ended_because}" if report.ended_because else ""
        return f"Finished alone{why}. {_rounds(alone)} trained without any exchange."
    if report.confirmed is False:
        return (
            "Not every peer has confirmed the last round. Run again later: nothing is trained, "
            "and peers get what they miss."
        )
    return ""


def _rounds(amount: int) -> str:
    return f"{amount} round was" if amount == 1 else f"{amount} rounds were"


def faults(report: Report) -> list[str]:
    """Faults as sentences; a quiet run has none."""
    found = report.faults
    told = []
    if found.reconnects:
        told.append(f"The connection broke and came back {_times(found.reconnects)}.")
    if found.resumes:
        told.append(
            f"An interrupted transfer went on where it had stopped {_times(found.resumes)}."
        )
    if found.void_rounds:
        told.append(
            f"{_rounds(found.void_rounds)} void, for too few updates or one refused, and everybody "
            "kept the shared layers of the round before."
        )
    told += filter(None, (_missed(report), _voters(found.views)))
    return told


def _missed(report: Report) -> str:
    """Which rounds the others closed without this party."""
    rounds = [row.round for row in report.history if row.outcome == "missed"]
    if not rounds:
        return ""
    which = f"{len(rounds)} rounds, from round {rounds[0]} on (rounds {spans(rounds)})"
    if len(rounds) == 1:
        which = f"1 round, round {rounds[0]}"
    return (
        f"This party missed {which}: while it was away the others went on, and it took over the "
        "shared layers that they had agreed on."
    )


def _voters(views: list[ViewPart]) -> str:
    """How often it changed who votes, and who does now."""
    if not views:
        return ""
    last = views[-1]
    now = "all parties" if not last.left_out else f"{listed(last.members)}, and not "
    return (
        f"Who takes part changed {_times(len(views))}; since round {last.round} it is "
        f"{now}{listed(last.left_out)}."
    )


def evidence(alarm: Alarm) -> str:
    """What an alarm rests on, in one line."""
    found = alarm.evidence
    told = [
        f"{found['lost']} of {count(found['images'])} images only the model trained alone has "
        f"right, {found['gained']} only the other"
    ]
    shift = found.get("shift")
    if shift:
        told.append(
            f"{shift['class']} is said for {percent(shift['merged'])} of them, "
            f"{percent(shift['without'])} alone"
        )
    for party, row in found.get("updates", {}).items():
        if row["cosine"] is not None:
            told.append(
                f"update of {party}: length {number(row['norm'])}, cosine with my own "
                f"{number(row['cosine'], 2)}"
            )
    return "; ".join(told)


def _times(amount: int) -> str:
    return {1: "once", 2: "twice"}.get(amount, f"{amount} times")
