"""``splitfed audit``: what the shared layers give away, measured at home."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.guard import complain
from splitfed.cli.output import columns, printable, say, say_json
from splitfed.cli.shared import RUNS, AsJson, PartyFile
from splitfed.cli.words import size
from splitfed.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PAGE = "audit.html"


def audit(
    party_file: PartyFile,
    images: Annotated[int, typer.Option(help="Updates that are attacked for each split.")] = 3,
    behind: Annotated[
        int, typer.Option(help="Images behind each update; 1 is the worst case.")
    ] = 1,
    restarts: Annotated[int, typer.Option(help="Searches for each image.")] = 2,
    iterations: Annotated[int, typer.Option(help="Iterations of each search.")] = 200,
    as_trained: Annotated[
        bool,
        typer.Option(
            "--as-trained",
            help="Attack the steps and the optimizer of party.toml, not one plain step.",
        ),
    ] = False,
    rounds: Annotated[
        int, typer.Option(help="Rounds before membership is attacked, at most those agreed on.")
    ] = 5,
    members: Annotated[int, typer.Option(help="Training images for it, at most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where the page goes. Default: audit.html beside PARTY.TOML.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Attack your own shared layers, offline: which split gives images away, and what noise does.

    Plays a peer against your own model and images, for every prefix of the model's layers and for
    the agreed ones, without noise and with the agreed noise: gradient inversion (can an image be
    made again from what travels?) and membership inference (was an image trained on?). Prints a
    table and advice, and writes a page with the reconstructions beside the true images.

    The page shows YOUR TRAINING IMAGES and must not leave the house; only you can read it. Nothing
    is sent, nothing is debited, and no run is touched. A low figure proves nothing: only noise with
    its epsilon bounds every attack. The model is built: its factory is code, and that code runs
    here.
    """
    from splitfed.config import load_party

    config = load_party(party_file, consent=False)
    page = config.folder / PAGE if out is None else out
    if not page.absolute().parent.is_dir():
        raise UserError(f"--out {page}: there is no such folder", "make it, or name another file")

    import torch

    from splitfed.leakage import Effort, measure, subject_of, write_page
    from splitfed.run.party import begun_with

    effort = Effort(
        images=images,
        behind=behind,
        restarts=restarts,
        iterations=iterations,
        as_trained=as_trained,
        rounds=rounds,
        members=members,
        seed=seed,
    )
    torch.set_num_threads(config.training.threads)
    begun = begun_with(config.folder / RUNS / config.party)
    found = measure(subject_of(config, begun), effort, _progress())
    write_page(page, found)
    if as_json:
        say_json(found.found | {"page": str(page)})
    else:
        say(*lines(found.found))
        say("", printable(f"pictures: {page}"))
        say("  it shows your training images: it must not leave the house (mode 0600)")
    return 0


def lines(found: Mapping[str, Any]) -> list[str]:
    """The table and the advice."""
    from splitfed.leakage.advice import recognised

    rows = [
        ("shared", "noise", "parameters", "bytes", "recognised", "PSNR", "SSIM", "membership AUC")
    ]
    notes = []
    for row in found["rows"]:
        marked = f"{row['split']}{' (agreed)' if row['agreed'] else ''}"
        rows.append(
            (
                printable(marked),
                row["mode"],
                f"{row['parameters']:,}",
                size(row["bytes"]),
                recognised(row) if row["inversion"] else "-",
                *_likeness(row["inversion"]),
                _told(row["membership"]),
            )
        )
        if row["refused"]:
            notes.append(printable(f"{row['split']}, {row['mode']}: {row['refused']}"))
    rows.append(("no update (a guess)", "", "0", "0 B", "", *_likeness(found["guess"]), "0.5"))
    return [
        columns(rows, right=(2, 3, 4, 5, 6), indent=""),
        *notes,
        "",
        *(printable(line) for line in found["advice"]),
    ]


def _likeness(found: Mapping[str, float] | None) -> tuple[str, str]:
    if found is None:
        return "-", "-"
    return f"{found['psnr']:.1f} dB", f"{found['ssim']:.2f}"


def _told(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{found['auc']:.3f} ({found['low']:.3f} to {found['high']:.3f})"


def _progress() -> Callable[[str], None]:
    """Lines on stderr where somebody watches."""
    if sys.stderr.isatty():
        return lambda text: complain(f"attacking {text}")
    return lambda text: None
