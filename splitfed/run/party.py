"""``splitfed run`` and ``splitfed check`` without their screens: files in, outcome out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from splitfed.config import PartyConfig, PrivacyConfig
from splitfed.data import data_digest
from splitfed.errors import FolderError, NoRunFolder, PrivacyError
from splitfed.founding.rotation import own_secret
from splitfed.models import initialise
from splitfed.privacy import Mechanism, mechanism_of
from splitfed.progress import Progress
from splitfed.rounds import UPDATE, following, trained
from splitfed.run.agreed import Agreed
from splitfed.run.agreement import (
    Begun,
    agree,
    load_data,
    no_key_from_before,
    settings_of,
    with_reference,
)
from splitfed.run.descriptors import raise_descriptor_limit, shortage
from splitfed.run.learner import PartyData
from splitfed.run.life import Outcome, live
from splitfed.run.spending import Account, Limit
from splitfed.run.words import last_words
from splitfed.serve import check_files
from splitfed.store import BUDGET, Budget, FolderView, RunFolder
from splitfed.transport.keys import Identity, PeerKeys
from splitfed.transport.zeromq import ZmqWire

OVER = (
    "to train further, raise rounds in federation.toml on EVERY side; to begin anew (also after "
    "changing [defence] acceptance), give another --out\n  if a peer waits for this party all the "
    "same, its run folder is older than ours: let it put its newest one back"
)
OVER_ALONE = (
    "the federation is over for this party: tell the others, for a run of theirs that has not "
    "heard it waits in vain; to federate again begin anew on every side with another --out"
)


def run_party(config: PartyConfig, out: Path, *, progress: Progress) -> Outcome:
    """Take part in the federation of ``config``; the run folder is ``out/<party>``.

    Goes on where the folder stands. On a finished and confirmed folder it does nothing.

    Raises:
        SplitfedError: with the exit code of its class; nothing is lost by running again.
    """
    started = process_start()
    descriptors = raise_descriptor_limit()
    torch.set_num_threads(config.training.threads)
    path = out / config.party
    done = _finished(path, config)
    if done is not None:
        return done
    me = own_identity(config)
    config, reference = with_reference(config)
    before = _folder_contracts(path)
    begun = begun_with(path)
    agreed = agree(config, begun=begun)
    grown = _grown_from(before, agreed)
    if grown is not None:
        _no_open_fusion(config, before, begun, agreed)
    own = None
    if config.model is not None:
        own = initialise(
            config.model.factory,
            config.model.arguments,
            config.federation.seed,
            folder=config.folder,
        )
    data = replace(load_data(config), reference=reference)
    with (
        RunFolder.open(
            path,
            party=config.party,
            contract=agreed.terms.contract,
            document=agreed.document,
            replaces=grown,
        ) as folder,
        last_words(folder) as ended,
        account_of(config, agreed, data) as account,
    ):
        no_key_from_before(config, folder)
        if account is not None and account.budget is not None:
            account.budget.require(folder.ledger.rows())
        folder.write_json("started.json", {"party_file": str(config.path)})
        if short := shortage(descriptors):
            progress.say(short)
            folder.log("few-descriptors", limit=descriptors, cure=short)
        wire = make_wire(config, me)
        outcome = live(
            agreed=agreed,
            settings=settings_of(config),
            me=me,
            model=own,
            data=data,
            folder=folder,
            wire=wire,
            progress=progress,
            account=account,
            started=started,
            routes=wire.routes,
        )
        return ended(outcome)


def own_identity(config: PartyConfig) -> Identity:
    """My name and secret keys, which must be those that the agreement knows me by.

    Raises:
        UserError: the secret file is missing, open to others, or damaged.
        ConfigError: the agreement holds other public keys under my name.
    """
    return Identity(name=config.party, secret=own_secret(config))


def make_wire(config: PartyConfig, me: Identity) -> ZmqWire:
    """The ZeroMQ wire to all other parties, not yet open."""
    return ZmqWire(me, roster_of(config), config.bind)


def roster_of(config: PartyConfig) -> dict[str, PeerKeys]:
    """All parties' public keys and addresses, the own included."""
    return {
        name: PeerKeys(
            public_key=entry.public_key, signing_key=entry.signing_key, address=entry.address
        )
        for name, entry in config.federation.parties.items()
    }


def process_start() -> float:
    """When this process started, on the clock of ``time.monotonic``; now where the system
    does not tell."""
    try:
        stat = Path("/proc/self/stat").read_text()
        ticks = int(stat.rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return time.monotonic()
    return time.monotonic() - max(age, 0.0)


def _finished(path: Path, config: PartyConfig) -> Outcome | None:
    """The outcome of a run that is over and confirmed, or None when there is work left."""
    if not (path / "report.json").is_file() or not (path / "ledger.sqlite").is_file():
        return None
    with RunFolder.read_only(path) as folder:
        rounds = trained(kinds_of(folder))
        if rounds < config.federation.rounds:
            return None
        alone = folder.ending is not None
        if not (folder.confirmed or alone):
            return None
    try:
        check_files(path)
    except FolderError:
        return None  # all of it is still in the folder: the bundle is written anew
    try:
        report = json.loads((path / "report.json").read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(
            f"{path / 'report.json'} cannot be read: {error}",
            "remove it and run again: it is written anew from the folder",
        ) from None
    if not _is_of_the_end(report, rounds, alone=alone):
        return None
    how = "this party trained alone to the end" if alone else f"all {rounds} rounds are closed"
    return Outcome(
        exit_code=5 if alone else 0,
        report=report,
        note=f"{path} is finished: {how}; nothing was done\n  {OVER_ALONE if alone else OVER}",
    )


def _is_of_the_end(report: Any, rounds: int, *, alone: bool) -> bool:
    """Whether a report tells of the end that the folder has reached. It may be that of an earlier
    one: rounds were added, or a budget raised, and the process died before it wrote its own."""
    wanted = ("alone", False, rounds) if alone else ("done", True, rounds)
    try:
        return (report["outcome"], report["confirmed"], len(report["history"])) == wanted
    except (KeyError, TypeError):
        return False


@contextmanager
def account_of(config: PartyConfig, agreed: Agreed, data: PartyData) -> Iterator[Account | None]:
    """The privacy account of this party's training data; None under "none".

    Raises:
        DataError: the account was opened for other data under this id.
        LedgerTampered: budget.sqlite is not as it was written.
    """
    if agreed.mechanism is None:
        yield None
        return
    with Budget.open(
        config.folder / BUDGET, data_id=config.data.id, data_digest=data_digest(data.train)
    ) as budget:
        _same_unit(agreed.mechanism, budget)
        yield Account(
            mechanism=agreed.mechanism,
            party=config.party,
            budget=budget,
            limit=limit_of(config),
        )


def _same_unit(mechanism: Mechanism, budget: Budget) -> None:
    """Refuse an account that would add up what protects records and what protects patients.

    Raises:
        PrivacyError: naming the account and both units.
    """
    used = {debit.unit for debit in budget.debits()} - {"party", mechanism.unit}
    if used and mechanism.unit != "party":
        raise PrivacyError(
            f"{budget.path}: the account of data id {budget.data_id} counts what protects each "
            f"{used.pop()}, this agreement protects each {mechanism.unit}: the sum would be the "
            "epsilon of neither",
            "agree on the same unit, or give this use of the data a [data] id of its own; "
            "what both spend adds up, and splitfed cannot see that",
        )


def limit_of(config: PartyConfig) -> Limit | None:
    """The budget in party.toml, or None."""
    epsilon, delta = config.data.budget_epsilon, config.data.budget_delta
    return None if epsilon is None or delta is None else Limit(epsilon=epsilon, delta=delta)


def begun_with(path: Path) -> Begun:
    """What the run in ``path`` began with, where one did."""
    contracts = _folder_contracts(path)
    if not contracts:
        return Begun()
    with RunFolder.read_only(path) as folder:
        return Begun(noise_multiplier=_noise_begun_with(contracts), kinds=kinds_of(folder))


def kinds_of(folder: FolderView) -> tuple[str, ...]:
    """What was exchanged and closed, in order."""
    return tuple(row.get("kind", UPDATE) for row in folder.history())


def _folder_contracts(path: Path) -> tuple[tuple[bytes, str], ...]:
    """The agreements that the folder has followed, if it is one and has met its peers."""
    try:
        with RunFolder.read_only(path) as folder:
            return folder.contracts if folder.run is not None else ()
    except NoRunFolder:  # not begun, or killed while it was made
        return ()


def _no_open_fusion(
    config: PartyConfig, contracts: tuple[tuple[bytes, str], ...], begun: Begun, agreed: Agreed
) -> None:
    """Refuse more rounds while a fusion is open: what was released for it would be given a place
    that the other side does not know, and be paid for without being planned.

    Raises:
        FolderError: naming the figure to put back.
    """
    rounds = json.loads(contracts[-1][1])["rounds"]
    kind = following(begun.kinds, replace(agreed.terms, rounds=rounds))
    if kind not in (None, UPDATE):
        raise FolderError(
            f"{config.federation_path}: rounds = {agreed.terms.rounds}, and the fusion after round "
            f"{trained(begun.kinds)} is not finished in this run folder",
            f"put rounds = {rounds} back on every side and run again until it is finished; then "
            "raise it",
        )


def _noise_begun_with(contracts: tuple[tuple[bytes, str], ...]) -> float | None:
    """σ as it follows from the first agreement: later ones only add rounds at that noise."""
    try:
        document = json.loads(contracts[0][1])
        mechanism = mechanism_of(
            PrivacyConfig.model_validate_json(json.dumps(document["privacy"])),
            rounds=document["rounds"],
            records={name: entry["records"] for name, entry in document["parties"].items()},
        )
    except (IndexError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return None if mechanism is None else mechanism.noise_multiplier


def _grown_from(contracts: tuple[tuple[bytes, str], ...], agreed: Agreed) -> bytes | None:
    """The recorded agreement's digest, if this one differs from it by more rounds alone, and
    by the ε that they cost."""
    if not contracts:
        return None
    digest, text = contracts[-1]
    try:
        before, now = json.loads(text), json.loads(agreed.document)
        if before.pop("rounds", 0) >= now.pop("rounds", 0):
            return None
        if (before["privacy"]["epsilon"] or 0) > (now["privacy"]["epsilon"] or 0):
            return None
        before["privacy"].pop("epsilon")
        now["privacy"].pop("epsilon")
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return digest if before == now else None
