"""The commands. Each reads its flags, calls one function below it, and prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from splitfed import __version__
from splitfed.errors import UserError

USAGE = 2
RUNS = "runs"

app = typer.Typer(
    name="splitfed",
    help="Train image models together and share only the layers you agreed on.\n\n"
    "Two institutions: each runs `init`, `plan`, `run`. One machine: `splitfed demo`.\n\n"
    "Exit codes: 0 done, 1 a defect of ours, 2 your input, 3 peer or network, "
    "4 a safety stop, 5 finished alone, 130 Ctrl-C. `--debug` shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

PartyFile = Annotated[Path, typer.Argument(help="the party's own party.toml", metavar="PARTY.TOML")]
Folder = Annotated[
    Path, typer.Argument(help="a party's run folder, such as runs/hospital-a", metavar="DIR")
]
Json = Annotated[bool, typer.Option("--json", help="print JSON for a program to read")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="folder in which <party>/ lies; default: runs beside party.toml"),
]


def call(arguments: Sequence[str]) -> int:
    """Run the command that ``arguments`` name; errors of splitfed pass through."""
    try:
        result = app(args=list(arguments), standalone_mode=False, prog_name="splitfed")
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.ctx.get_help() if error.ctx else "")
        return USAGE
    except click.ClickException as error:
        error.show(sys.stderr)
        return USAGE
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        print(f"splitfed {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="where run folders and report go")] = Path(
        "runs/demo"
    ),
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="rounds of one epoch")] = 10,
    parties: Annotated[int, typer.Option("--parties", min=2, help="only 2 so far")] = 2,
    split: Annotated[str, typer.Option("--split", help="iid or skew (80/20 by label)")] = "skew",
    privacy: Annotated[str, typer.Option("--privacy", help='only "none" so far')] = "none",
) -> int:
    """The whole story on real digits on this machine: two real `splitfed run` processes on
    loopback with fresh keys, a comparison table and a report."""
    from splitfed.demo import run_demo

    return run_demo(out, rounds=rounds, parties=parties, split=split, privacy=privacy)


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="the party's folder, made if missing")] = Path(),
    join: Annotated[
        Path | None, typer.Option("--join", help="the federation.toml you were sent")
    ] = None,
    party: Annotated[str | None, typer.Option("--party", help="your name in the agreement")] = None,
    name: Annotated[str | None, typer.Option("--name", help="the federation's name")] = None,
    address: Annotated[
        str | None, typer.Option("--address", help="where peers reach you: tcp://host:port")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="folder:PATH, npz:PATH, digits:…, module:function")
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", help="class names in order, separated by commas")
    ] = None,
    factory: Annotated[
        str, typer.Option("--factory", help="the model, package.module:Class")
    ] = "splitfed.models:ThreeLayerCNN",
    acceptance: Annotated[
        bool, typer.Option("--acceptance", help="also train the local_only baseline")
    ] = False,
) -> int:
    """Make a party folder: keys, party.toml, and start (or --join) a federation.toml."""
    from splitfed.cli.founding import Answers, make_party

    answers = Answers(
        party=party, name=name, address=address, data=data, classes=classes, factory=factory,
        acceptance=acceptance,
    )  # fmt: skip
    print(make_party(folder, join, answers, ask=sys.stdin.isatty()))
    return 0


@app.command()
def plan(party_file: PartyFile, as_json: Json = False) -> int:
    """Offline: every tensor that would leave and every one that stays, bytes a round, and
    the privacy sentence. Runs the model factory, which is code, on this machine."""
    from splitfed.cli.plan import make_plan, plan_lines
    from splitfed.config import load_party

    found = make_plan(load_party(party_file))
    print(json.dumps(found, indent=2) if as_json else "\n".join(plan_lines(found)))
    return 0


@app.command()
def check(party_file: PartyFile, as_json: Json = False) -> int:
    """Talk to the peers without training: reachable? key accepted? agreements equal?"""
    from splitfed.config import load_party
    from splitfed.run import check_peers

    found = check_peers(load_party(party_file))
    if as_json:
        rows = [
            {"peer": f.peer, "ok": f.ok, "reachable": f.reachable, "text": f.text, "cure": f.cure}
            for f in found
        ]
        print(json.dumps(rows, indent=2))
    else:
        for one in found:
            print(f"{one.peer}: {'ok' if one.ok else 'NOT OK'}: {one.text}")
            if one.cure:
                print(f"  cure: {one.cure}")
    return max((one.exit_code for one in found), default=0)


@app.command()
def run(party_file: PartyFile, out: Out = None, as_json: Json = False) -> int:
    """Take part in the federation until its last round; run again to go on after a stop."""
    from splitfed.cli.screens import screen
    from splitfed.config import load_party
    from splitfed.run import run_party

    config = load_party(party_file)
    folder = config.folder / RUNS if out is None else out
    with screen(config.federation.rounds, quiet=as_json) as progress:
        outcome = run_party(config, folder, progress=progress)
    if outcome.note:
        print(outcome.note, file=sys.stderr)
    if as_json:
        print(json.dumps(outcome.report, indent=2))
    else:
        _print_tables({config.party: outcome.report})
        print(f"report: {folder / config.party / 'report.html'}")
    return outcome.exit_code


@app.command()
def status(folder: Folder, as_json: Json = False) -> int:
    """What the run in DIR is doing or waiting for, from another terminal."""
    from splitfed.store import RunFolder

    with RunFolder.read_only(folder) as view:
        closed, said = view.closed(), view.status() or {}
        found: dict[str, Any] = {
            "party": view.party,
            "running_pid": RunFolder.holder(folder),
            "closed_round": closed.round if closed else 0,
            "confirmed": view.confirmed,
            **said,
        }
    if as_json:
        print(json.dumps(found, indent=2))
        return 0
    pid = found["running_pid"]
    print(f"{found['party']}: {'running, process ' + str(pid) if pid is not None else 'not running'}")
    print(f"last closed round: {found['closed_round']}")
    doing = str(said.get("phase", "nothing yet"))
    if said.get("of"):
        doing += f" for {said.get('for')} of {', '.join(said['of'])}"
    print(f"{'now' if pid is not None else 'last'}: {doing}")
    return 0


@app.command()
def evaluate(folder: Folder, as_json: Json = False) -> int:
    """The comparison table of a finished run."""
    from splitfed.report import read_report

    report = read_report(folder)
    if as_json:
        print(json.dumps({"evaluation": report["evaluation"], "verdict": report["verdict"]}))
    else:
        _print_tables({report["party"]: report})
    return 0


@app.command()
def report(folder: Folder, as_json: Json = False) -> int:
    """Write report.html of a finished run anew from its report.json, and say where it is."""
    from splitfed.report import read_report, write_report

    found = read_report(folder)
    path = write_report(folder, found)
    print(json.dumps(found, indent=2) if as_json else f"report: {path}")
    return 0


def _print_tables(reports: dict[str, Any]) -> None:
    from splitfed.report import console_table, plain_lines

    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(console_table(reports))
    else:
        print("\n".join(plain_lines(reports)))


def need(value: str | None, flag: str) -> str:
    """``value``, or an error that names the flag.

    Raises:
        UserError: no value.
    """
    if not value:
        raise UserError(f"{flag} is missing", f"give {flag}, or run in a terminal to be asked")
    return value
