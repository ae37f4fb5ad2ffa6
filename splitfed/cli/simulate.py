"""``splitfed simulate``: what gates and rules do about lying parties, shown on an own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.output import columns, printable, say, say_json
from splitfed.cli.shared import AsJson
from splitfed.errors import UserError

if TYPE_CHECKING:
    from splitfed.simulation import Attack
    from splitfed.simulation.settings import Setting
    from splitfed.simulation.trial import Result

SHOWN = 5
"""Refusals and alarms printed in full; --json has them all."""


def simulate(
    party_file: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PARTY.TOML]",
            help="Your own party.toml: its model, shared layers and images, divided among the "
            "simulated parties. Left out: the demo's digits.",
            show_default=False,
        ),
    ] = None,
    attack: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="sign-flip, scaling, noise, label-flip, backdoor, lying-outputs, little, "
            "inner-product or inner-product-small. Left out: nobody lies.",
            show_default=False,
        ),
    ] = None,
    parties: Annotated[int, typer.Option(help="How many, 2 or more.")] = 7,
    attackers: Annotated[int, typer.Option(help="How many of them lie, as one.")] = 1,
    rule: Annotated[
        str, typer.Option(help="The aggregation rule, as in federation.toml.")
    ] = "mean",
    clip: Annotated[
        float | None,
        typer.Option(help="Radius of centred-clipping.  [default: 1]", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of training.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the division and all that is drawn.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep each party's run folder and result.json here. Default: nothing is kept.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Let some parties of a simulated federation lie, and see what becomes of the honest ones.

    Everything runs in this process, by the code of a real run: gates, rule, votes, acceptance
    test. No byte leaves this machine and no noise is added, whatever the agreement says. Your
    training images are divided among the parties at random. Prints the honest parties' accuracy
    with and without the attackers, what they refused, and what raised an alarm.
    """
    from splitfed.simulation import find_attack

    chosen = None if attack is None else find_attack(attack)
    lying = attackers if chosen is not None else 0
    if parties < 2 or not 0 <= lying < parties or (chosen is not None and not lying):
        raise UserError(
            f"--parties {parties} with --attackers {attackers}",
            "give two or more parties, at least one of them honest, and one or more attackers",
        )
    setting = _setting(party_file, parties=parties, rounds=rounds, seed=seed, attack=chosen)
    if out is not None:
        _make(out)
    before, after = setting.run(rule=rule, attackers=lying, attack=chosen, clip=clip, out=out)
    document = _document(setting, before, after, rule=rule, attackers=lying, attack=chosen)
    if out is not None:
        import json

        from splitfed.store import write_atomic

        write_atomic(out / "result.json", json.dumps(document, indent=2).encode())
    if as_json:
        say_json(document)
    else:
        say(*_lines(setting, before, after, rule=rule, attackers=lying, attack=chosen))
    return 0


def _setting(
    party_file: Path | None, *, parties: int, rounds: int, seed: int, attack: Attack | None
) -> Setting:
    from splitfed.simulation.settings import of_digits, of_files

    if party_file is None:
        return of_digits(parties=parties, rounds=rounds, seed=seed)
    from splitfed.config import load_party

    return of_files(load_party(party_file), parties=parties, rounds=rounds, seed=seed)


def _make(out: Path) -> None:
    """An empty folder for what is kept."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out}: is there already", "choose another --out, or empty it")
    out.mkdir(parents=True, exist_ok=True)


def _document(
    setting: Setting,
    before: Result,
    after: Result,
    *,
    rule: str,
    attackers: int,
    attack: Attack | None,
) -> dict[str, Any]:
    return {
        "about": setting.about,
        "attack": None
        if attack is None
        else {"name": attack.name, "about": attack.about, "paper": attack.paper},
        "rule": rule,
        "parties": len(setting.parties),
        "attackers": [party.name for party in setting.parties[-attackers:]] if attackers else [],
        "rounds": setting.federation.rounds,
        "seed": setting.federation.seed,
        "without": before.document(),
        "with": after.document(),
    }


def _lines(
    setting: Setting,
    before: Result,
    after: Result,
    *,
    rule: str,
    attackers: int,
    attack: Attack | None,
) -> list[str]:
    rounds = setting.federation.rounds
    lines = [
        setting.about,
        f"{len(setting.parties)} parties, {attackers} of them lying; rule = {rule!r}; "
        f"{rounds} rounds, no noise",
    ]
    if attack is not None:
        lines += [f"{attack.name}: {attack.about}", f"  after {attack.paper}"]
    head = ["honest parties, mean", "shared", "worst", "personal", "local_only"]
    fused = after.mean("fused") is not None
    planted = after.mean("backdoor") is not None
    head += ["fused"] * fused + ["backdoor", "of local_only"] * planted
    rows = [head]
    without = "without the attackers, by the mean" if attackers else "by the mean"
    for words, result in ((without, before), (f"as they are, by {rule}", after)):
        keys = ["shared", "", "personal", "local_only"] + ["fused"] * fused
        keys += ["backdoor", "backdoor_local_only"] * planted
        figures = [result.worst("shared") if not key else result.mean(key) for key in keys]
        rows.append([words, *(_percent(figure) for figure in figures)])
    lines += ["", columns(rows, right=range(1, len(head)), indent=""), ""]
    lines += _told("refused", after.rejected) + _told("alarms", after.alarms)
    voids = sum(kind == "void" for row in after.outcomes.values() for kind in row)
    alone = sorted(name for name, row in after.outcomes.items() if "alone" in row)
    lines.append(f"void rounds: {voids // max(1, len(after.outcomes))}")
    if alone:
        lines.append(f"left and went on alone: {', '.join(alone)}")
    return lines


def _told(what: str, found: Any) -> list[str]:
    """The first few of what each honest party noted."""
    rows = [(name, row) for name, of in sorted(found.items()) for row in of]
    if not rows:
        return [f"{what}: none"]
    lines = [f"{what}: {len(rows)}"]
    for name, row in rows[:SHOWN]:
        peer = f"{row['peer']}: " if row.get("peer") else ""
        text = f"  round {row.get('round')}, {name}: {peer}{row.get('reason', '')}"
        lines.append(printable(text))
    if len(rows) > SHOWN:
        lines.append(f"  and {len(rows) - SHOWN} more: see --json")
    return lines


def _percent(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.1%}"
