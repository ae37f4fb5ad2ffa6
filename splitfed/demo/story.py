"""``splitfed demo``: two hospitals as two processes, then the comparison."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from splitfed.demo.processes import run_together
from splitfed.errors import UserError
from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of

SEED = 1
NAMES = ("hospital-a", "hospital-b")
SPLITS = ("skew", "iid")


def run_demo(out: Path, *, rounds: int, parties: int, split: str, privacy: str) -> int:
    """Run the demo's fixed setting and print the comparison; returns the exit code.

    Raises:
        UserError: a choice that is not built, or an ``out`` that holds something else.
        SplitfedError: what a party's process ended with, by its exit code.
    """
    _check(parties, split, privacy)
    _empty(out)
    folders = make_parties(out / "parties", rounds=rounds, split=split)
    print(f"two parties on this machine, {rounds} rounds; only conv1 and conv2 cross the wire")
    code = run_together({name: folder / "party.toml" for name, folder in folders.items()}, out)
    if code:
        return code
    print("training the `full` reference (everything averaged) in this process")
    full = full_reference(folders, rounds)
    finish(out, full)
    return 0


def make_parties(where: Path, *, rounds: int, split: str) -> dict[str, Path]:
    """The two party folders, made as `splitfed init` and `init --join` make them."""
    first, second = (where / name for name in NAMES)

    def newcomer(index: int, address: str | None) -> Newcomer:
        source = f"digits:party={index}&parties=2&split={split}&seed={SEED}"
        return Newcomer(
            party=NAMES[index],
            address=address,
            records=1000,
            sources=sources_of(source, where),
            data_id="digits",
            acceptance=True,
        )

    proposal = Proposal(
        name="demo",
        classes=DIGITS,
        rounds=rounds,
        seed=SEED,
        mean=(0.1307,),
        std=(0.3081,),
    )
    # The port is chosen by the system just before it is used.
    address = f"tcp://127.0.0.1:{_free_port()}"
    made = found(first, proposal, newcomer(0, address))
    joined = join(second, made.federation_file, newcomer(1, None))
    shutil.copyfile(joined.federation_file, made.federation_file)
    return dict(zip(NAMES, (first, second), strict=True))


def full_reference(folders: dict[str, Path], rounds: int) -> dict[str, Any]:
    """The same setting with everything averaged: each party's evaluation row."""
    from splitfed.config import load_party
    from splitfed.run.party import load_data
    from splitfed.simulation import Federation, Party

    configs = {name: load_party(folder / "party.toml") for name, folder in folders.items()}
    first = next(iter(configs.values()))
    data = {name: load_data(config) for name, config in configs.items()}
    reports = Federation(
        model=first.federation.model.factory,
        arguments=first.federation.model.arguments,
        shared="*",
        rounds=rounds,
        classes=first.federation.classes,
        seed=first.federation.seed,
        privacy="none",
        training=first.training,
    ).simulate([Party(n, d.train, d.validation, d.test) for n, d in data.items()])
    return {name: report["evaluation"]["partial"] for name, report in reports.items()}


def finish(out: Path, full: dict[str, Any]) -> None:
    """Put the reference into every report, write the combined one, and print the table."""
    from splitfed.report import (
        console_table,
        plain_lines,
        read_report,
        write_combined,
        write_report,
    )

    reports = {name: read_report(out / name) for name in NAMES}
    for name, report in reports.items():
        report["evaluation"]["full"] = full[name]
        write_report(out / name, report)
    page = write_combined(out, reports)
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(console_table(reports))
    else:
        print("\n".join(plain_lines(reports)))
    print(reports[NAMES[0]]["privacy"]["sentence"])
    print(f"report: {page}")


def _check(parties: int, split: str, privacy: str) -> None:
    if parties != len(NAMES):
        raise UserError(
            f"--parties {parties} is not built yet: the link serves two parties",
            "leave it out, or use splitfed.simulation.Federation for more in one process",
        )
    if split not in SPLITS:
        raise UserError(f"--split {split}", f"choose one of: {', '.join(SPLITS)}")
    if privacy != "none":
        raise UserError(
            f"--privacy {privacy} is not built yet",
            'only "none" is (NO PRIVACY GUARANTEE)',
        )


def _empty(out: Path) -> None:
    """An earlier demo in ``out`` goes; anything else stays and is named."""
    if not out.exists():
        return
    ours = {"parties", *NAMES, "report.json", "report.html"}
    foreign = sorted(entry.name for entry in out.iterdir() if entry.name not in ours)
    if foreign or not out.is_dir():
        raise UserError(
            f"{out} holds {', '.join(foreign[:3]) or 'a file'}, which is not from a demo",
            "choose another --out",
        )
    shutil.rmtree(out)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
