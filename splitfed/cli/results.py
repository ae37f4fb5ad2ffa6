"""``splitfed evaluate`` and ``splitfed report``: what came out of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.output import printable, say, say_json, say_tables
from splitfed.cli.shared import AsJson, Folder
from splitfed.errors import UserError

if TYPE_CHECKING:
    from splitfed.config import PartyConfig


def report(folder: Folder, as_json: AsJson = False) -> int:
    """Print a finished run's table and write report.html anew from its report.json.

    report.html is one file with all plots inside; it loads nothing from anywhere.
    """
    from splitfed.report import read_report, write_report

    found = read_report(folder)
    page = write_report(folder, found)
    if as_json:
        say_json(found)
        return 0
    say_tables({found["party"]: found})
    say(printable(str(found["privacy"]["sentence"])), f"report: {page}")
    return 0


def evaluate(
    folder: Folder,
    party_file: Annotated[
        Path | None,
        typer.Option(
            "--party-file",
            metavar="PARTY.TOML",
            help="The party.toml of this run. Default: the one it was started with.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Measure a finished run's saved model again on your own test images, offline.

    Prints its accuracy with the 95 % interval beside what the report says. Nothing leaves
    this machine, and nothing in DIR is changed.
    """
    from splitfed.report import read_report
    from splitfed.serve.trust import party_file_of

    reported = read_report(folder)
    path = party_file or party_file_of(folder) or folder.absolute().parent.parent / "party.toml"
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; the test images are named in party.toml",
            "give it with --party-file party.toml",
        )
    measured = _measured(folder, party_file, path, reported)
    before = reported["evaluation"].get(reported.get("kept") or "partial")
    if as_json:
        say_json({"party": reported["party"], "measured": measured, "reported": before})
        return 0
    say_tables({reported["party"]: reported})
    say(
        f"{reported['party']}: the saved model on {measured['test_size']} test images",
        f"  measured now   {_figures(measured)}",
        f"  in the report  {_figures(before)}",
    )
    return 0


def refuse_strange_code(folder: Path, config: PartyConfig) -> None:
    """Make sure that a party.toml that only the run folder ``folder`` speaks for brings no code.

    Raises:
        UserError: its images come from a function, and it does not lie right above ``folder``.
    """
    from splitfed.data.request import KINDS
    from splitfed.serve.trust import is_own

    sources = [getattr(config.data, key) for key in ("train", "validation", "test", "reference")]
    functions = [text for text in sources if text and text.partition(":")[0] not in KINDS]
    if functions and not is_own(folder, config.folder):
        raise UserError(
            f"{config.path} reads images with code ({functions[0]}), and nobody but {folder} says "
            "that it is yours",
            "give it with --party-file if you trust the code beside it",
        )


def _measured(
    folder: Path, given: Path | None, party_file: Path, reported: dict[str, Any]
) -> dict[str, Any]:
    """The saved model's score on the test set that party.toml names."""
    from splitfed.config import load_party

    config = load_party(party_file)
    if given is None:
        refuse_strange_code(folder, config)
    if config.party != reported["party"]:
        raise UserError(
            f"{party_file} is of {config.party}, {folder} is a run of {reported['party']}",
            "give the party.toml of this run with --party-file",
        )
    from splitfed.evaluation import predict, score
    from splitfed.run.agreement import load_data
    from splitfed.run.fusing import Ensemble
    from splitfed.serve import read_bundle

    code = None if given is None else given.absolute().parent
    facts = (bundle := read_bundle(folder, code)).facts
    members = bundle.models[facts.kept]
    model = members[0]
    if len(members) > 1:
        named = {str(place): member for place, member in enumerate(members)}
        model = Ensemble(named, len(facts.classes))
    images = load_data(config).test
    if images is None:
        raise UserError(f"{party_file} names no test images", "add [data] test")
    found = predict(model, images, loss="cross_entropy" if facts.classes else "mse")
    return {"test_size": len(images), **score(found).row()}


def _figures(row: dict[str, Any] | None) -> str:
    if row is None:
        return "not measured"
    loss = "" if row["loss"] is None else f"loss {row['loss']:.4f}"
    if row["accuracy"] is None:
        return loss
    bounds = f"(95 %: {row['accuracy_low']:.1%} to {row['accuracy_high']:.1%})"
    return f"accuracy {row['accuracy']:.1%} {bounds}  {loss}".rstrip()
