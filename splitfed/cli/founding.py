"""``splitfed init``: flags or questions in, a party folder out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from splitfed.config import load_federation
from splitfed.errors import UserError
from splitfed.founding import (
    Founded,
    Newcomer,
    Proposal,
    classes_of,
    count_records,
    found,
    sources_of,
)
from splitfed.founding import join as join_federation


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What the flags said; None: not given."""

    party: str | None
    name: str | None
    address: str | None
    data: str | None
    classes: str | None
    factory: str
    acceptance: bool


def make_party(folder: Path, joined: Path | None, answers: Answers, *, ask: bool) -> str:
    """Make the folder and return what to do next, in words.

    Raises:
        UserError: something is missing or wrong; nothing is written then.
    """
    answers = _complete(answers, joined is not None, ask=ask)
    party, data = _need(answers.party, "--party"), _need(answers.data, "--data")
    sources = sources_of(data, folder)
    proposal = None
    if joined is None:
        classes = tuple(_split(answers.classes)) or classes_of(sources, folder)
        if not classes:
            raise UserError(
                "--classes is missing: the data source does not show the class names",
                "give them in order, such as --classes normal,pneumonia",
            )
        proposal = Proposal(
            name=answers.name or "federation", classes=classes, factory=answers.factory
        )
    records = count_records(
        sources.train, proposal if proposal is not None else load_federation(_file(joined)), folder
    )
    newcomer = Newcomer(
        party=party,
        address=answers.address or None,
        records=records,
        sources=sources,
        acceptance=answers.acceptance,
    )
    if proposal is not None:
        made = found(folder, proposal, newcomer)
        return _told(
            made,
            party,
            records,
            "send federation.toml to your partner, who joins with\n"
            "  splitfed init --join federation.toml\n"
            "and sends it back: put the completed file in its place. secret.json and "
            "party.toml never leave this machine.",
        )
    made = join_federation(folder, _file(joined), newcomer)
    return _told(
        made,
        party,
        records,
        f"send this file back to your partner:\n"
        f"  {made.federation_file}\nBoth sides must hold the same file. secret.json and "
        "party.toml never leave this machine.",
    )


def _told(made: Founded, party: str, records: int, then: str) -> str:
    lines = [
        f"{party}: {records} training images",
        f"  {made.federation_file}  the agreement, for everybody",
        f"  {made.party_file}  your own settings",
        f"  {made.secret_file}  your secret keys (readable by you alone)",
        f"next: {then}",
        f"then: splitfed plan {made.party_file} and splitfed run {made.party_file}",
    ]
    return "\n".join(lines)


def _complete(answers: Answers, joining: bool, *, ask: bool) -> Answers:
    if not ask:
        return answers
    import typer

    if answers.party is None:
        answers = replace(answers, party=typer.prompt("your name in the agreement"))
    if answers.data is None:
        answers = replace(answers, data=typer.prompt("your images (folder, .npz or source)"))
    if answers.address is None:
        question = "address others can reach you at (tcp://host:port; empty: you dial)"
        answers = replace(answers, address=typer.prompt(question, default="", show_default=False))
    if not joining and answers.name is None:
        answers = replace(answers, name=typer.prompt("the federation's name"))
    return answers


def _need(value: str | None, flag: str) -> str:
    if not value:
        raise UserError(f"{flag} is missing", f"give {flag}, or run in a terminal to be asked")
    return value


def _file(path: Path | None) -> Path:
    if path is None or not path.is_file():
        raise UserError(f"--join {path}: no such file", "give the federation.toml you were sent")
    return path


def _split(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
