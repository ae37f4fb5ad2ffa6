"""``splitfed demo``: the whole story on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Where run folders and the report go.")] = Path(
        "runs/demo"
    ),
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of one epoch.")] = 10,
    parties: Annotated[int, typer.Option(min=2, help="Only 2 in this version.")] = 2,
    split: Annotated[
        str, typer.Option(help="iid, or skew: each party has mostly its own labels.")
    ] = "skew",
    privacy: Annotated[str, typer.Option(help='Only "none" in this version.')] = "none",
) -> int:
    """Two hospitals, real MNIST digits, real processes, keys and sockets on this machine.

    Prints what federation was worth to each of them and where the report is. An earlier
    demo in the same folder is replaced.
    """
    from splitfed.demo import run_demo

    return run_demo(out, rounds=rounds, parties=parties, split=split, privacy=privacy)
