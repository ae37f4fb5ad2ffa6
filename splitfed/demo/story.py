"""The demo's fixed setting: some hospitals, 5,000 real digits, and what they come to."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from splitfed.config import REFUSED
from splitfed.errors import UserError
from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.progress import Progress

NAMES = tuple(f"hospital-{letter}" for letter in "abcdefgh")
"""Of as many as there may be; a demo takes the first of them."""
SPLITS = ("skew", "iid")
PRIVACY = ("dp-frozen", "dp-all", "none")
SHARED = ("conv1", "conv2")
RECORDS = 2000
"""Training digits of all parties together."""
SEED = 1
PUBLIC_SPLIT = 0
"""Seed of the public division of the digits, apart from that of the models."""

MARK = ".splitfed-demo"
"""Stands in a folder that a demo made, so that the next one may replace what is in it."""

PARTIES = "parties"


def check_choices(*, parties: int, split: str, privacy: str) -> None:
    """Refuses what the demo does not offer.

    Raises:
        UserError: naming the flag.
    """
    if not 2 <= parties <= len(NAMES):
        raise UserError(
            f"--parties {parties}: the demo has 2 to {len(NAMES)}, each a process of its own",
            "choose fewer; splitfed.Federation has any number in one process",
        )
    if split not in SPLITS:
        raise UserError(f"--split {split}: no such split", f"choose one of: {', '.join(SPLITS)}")
    if privacy in REFUSED:
        raise UserError(f"--privacy {privacy} {REFUSED[privacy]}")
    if privacy not in PRIVACY:
        raise UserError(
            f"--privacy {privacy}: not a mode of the demo", f"choose one of: {', '.join(PRIVACY)}"
        )


def make_parties(
    out: Path, *, rounds: int, split: str, privacy: str = PRIVACY[0], parties: int = 2
) -> dict[str, Path]:
    """Makes the parties' folders below ``out`` as ``splitfed init`` and ``init --join`` do.

    The agreement goes round: each party adds itself to the file of the one before. All but the
    last have an address, so that every pair has a side that listens.

    Returns:
        Each party's party.toml, by its name.

    Raises:
        UserError: ``out`` holds something that no demo made.
    """
    _clear(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()

    names = NAMES[:parties]
    # The ports are the system's choice, made just before they are used.
    addresses = [f"tcp://127.0.0.1:{port}" for port in _free_ports(parties - 1)]

    def newcomer(index: int, address: str | None) -> Newcomer:
        source = f"digits:party={index}&parties={parties}&split={split}&seed={PUBLIC_SPLIT}"
        return Newcomer(
            party=names[index],
            address=address,
            records=RECORDS // parties,
            sources=sources_of(source, out, reference=source),
            data_id="digits",
            acceptance=True,
        )

    proposal = Proposal(name="demo", classes=DIGITS, rounds=rounds, seed=SEED, privacy=privacy)
    made = [found(out / PARTIES / names[0], proposal, newcomer(0, addresses[0]))]
    for index, address in enumerate([*addresses[1:], None], 1):
        folder, received = out / PARTIES / names[index], made[-1].federation_file
        made.append(join(folder, received, newcomer(index, address)))
    for earlier in made[:-1]:
        shutil.copyfile(made[-1].federation_file, earlier.federation_file)
    return dict(zip(names, (one.party_file for one in made), strict=True))


Scores = dict[str, dict[str, Any] | None]
"""A model's score on each party's test images, by party."""


def reference(files: Mapping[str, Path], rounds: int, *, shared: Sequence[str] | str) -> Scores:
    """The same setting without privacy and with ``shared`` averaged, in this process.

    Args:
        files: as :func:`make_parties` returned them.
        shared: "*" for plain federated averaging, or the layers that the agreement shares.
    """
    from splitfed.config import load_party
    from splitfed.run.agreement import load_data
    from splitfed.simulation import Federation, Party

    configs = {name: load_party(file) for name, file in files.items()}
    agreement = next(iter(configs.values())).federation
    parties = []
    for name, config in configs.items():
        data = load_data(config)
        parties.append(
            Party(name, data.train, data.validation, data.test, training=config.training)
        )
    reports = Federation(
        model=agreement.model.factory,
        arguments=agreement.model.arguments,
        shared=shared,
        rounds=rounds,
        classes=agreement.classes,
        seed=agreement.seed,
        privacy="none",
    ).simulate(parties)
    # What that federation calls its own model is, with everything shared, plain averaging.
    return {name: report["evaluation"]["partial"] for name, report in reports.items()}


def by_outputs(files: Mapping[str, Path], rounds: int) -> Scores:
    """The same setting without any shared layer: trained alone, then learnt from the averaged
    outputs, without noise."""
    from splitfed.config import load_party
    from splitfed.config.fusion import TEMPERATURE
    from splitfed.models import initialise
    from splitfed.run.agreement import load_data, with_reference
    from splitfed.simulation import outputs_only

    configs = {name: load_party(file) for name, file in files.items()}
    first = next(iter(configs.values()))
    agreement = first.federation
    _, reference = with_reference(first)
    assert reference is not None  # the demo's agreement names one
    return outputs_only(
        {name: load_data(config) for name, config in configs.items()},
        initialise(agreement.model.factory, agreement.model.arguments, agreement.seed),
        reference=reference,
        settings={name: config.training for name, config in configs.items()},
        fusing=first.fusion,
        temperature=agreement.fusion.temperature or TEMPERATURE,
        rounds=rounds,
        classes=agreement.classes,
        seed=agreement.seed,
    )


def references(
    files: Mapping[str, Path], rounds: int, progress: Callable[[str], Progress], *, privacy: str
) -> dict[str, Scores]:
    """What the demo compares with, by key of the report's ``evaluation``: everything averaged,
    and outputs alone shared, without privacy; and under noise also the same sharing without it.

    Each in a process of its own, two at a time, as the parties were.
    """
    wanted: dict[str, tuple[str, Callable[[], Scores]]] = {
        "full": (
            "the reference that averages everything",
            partial(reference, files, rounds, shared="*"),
        ),
        "outputs_only": (
            "the reference that shares no layer, only outputs",
            partial(by_outputs, files, rounds),
        ),
    }
    if privacy != "none":
        wanted["without_privacy"] = (
            "the reference that shares the same layers without noise",
            partial(reference, files, rounds, shared=SHARED),
        )
    with ProcessPoolExecutor(2, get_context("spawn"), initializer=_alone) as pool:
        running: dict[str, Future[Scores]] = {}
        for key, (words, job) in wanted.items():
            progress("references").say(f"training {words}")
            running[key] = pool.submit(job)
        return {key: future.result() for key, future in running.items()}


def _alone() -> None:
    """One thread a process: two that both take all cores only get in each other's way."""
    import torch

    torch.set_num_threads(1)


def combine(
    out: Path, files: Mapping[str, Path], found: Mapping[str, Scores]
) -> tuple[dict[str, dict[str, Any]], Path]:
    """Puts the references into every party's report and writes the report of all.

    Returns:
        The reports by party, and the path of the combined report.html.
    """
    from splitfed.report import read_report, write_combined, write_report

    reports = {name: read_report(out / name) for name in files}
    for name, report in reports.items():
        for key, scores in found.items():
            report["evaluation"][key] = scores[name]
        write_report(out / name, report)
    return reports, write_combined(out, reports)


def _clear(out: Path) -> None:
    """Removes what an earlier demo left in ``out``, and nothing else."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / MARK).is_file()):
        raise UserError(
            f"--out {out}: is there already, and not from a demo",
            "choose another --out, or an empty folder",
        )
    for name in (PARTIES, *NAMES):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    for name in ("report.json", "report.html"):
        (out / name).unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody uses now, all different."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
