"""``splitfed demo``: the whole story on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from splitfed.cli.output import printable, say, say_tables
from splitfed.cli.screens import screen


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where keys, run folders and the report go.")
    ] = Path("runs/demo"),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of one epoch each.")] = 10,
    parties: Annotated[
        int, typer.Option(help="How many hospitals, 2 to 8: each is a process of its own.")
    ] = 2,
    split: Annotated[
        str,
        typer.Option(
            help="How the digits are divided: skew (80 % of a hospital's are of its share of the "
            "ten: of two, 0-4 and 5-9) or iid (at random)."
        ),
    ] = "skew",
    privacy: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="dp-frozen or dp-all, at epsilon = 8 for each digit, or none (NO PRIVACY "
            "GUARANTEE).",
        ),
    ] = "dp-frozen",
) -> int:
    """Watch hospitals train one model on this machine: real processes, real digits.

    Makes fresh keys and a folder for each party as `init` does, starts a `splitfed run` process
    for each, which talk over encrypted loopback, sharing conv1 and conv2 and once their outputs
    on unlabelled digits, noised unless --privacy none, then trains references without noise, and
    prints how the models compare. All hospitals together have 2,500 digits to train on and choose
    by, whatever their number.
    """
    from splitfed import demo as story

    story.check_choices(parties=parties, split=split, privacy=privacy)
    folders = story.make_parties(out, rounds=rounds, split=split, privacy=privacy, parties=parties)
    noise = "without noise" if privacy == "none" else f"noised ({privacy})"
    say(
        f"{parties} parties on this machine, {rounds} rounds; conv1 and conv2 cross the wire every "
        f"round, and once what each model says about 1,000 unlabelled digits, {noise}"
    )
    with screen(rounds) as progress:
        code = story.run_together(folders, out, progress)
        if code:
            return code
        found = story.references(folders, rounds, progress, privacy=privacy)
    reports, page = story.combine(out, folders, found)
    say_tables(reports)
    sentences = {str(report["privacy"]["sentence"]) for report in reports.values()}
    say(*(printable(sentence) for sentence in sorted(sentences)), f"report: {page}")
    return 0
