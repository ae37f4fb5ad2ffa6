"""One party's life: meet, take part in every round, fit, evaluate, report.

``splitfed run`` and the simulation both end up here; they differ in the link they bring.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitfed.config import DP_SGD
from splitfed.errors import BudgetExceeded, OwnUpdatesExcluded, SafetyStop, SplitfedError
from splitfed.progress import Progress
from splitfed.report import write_report
from splitfed.rounds import Ending, Engine, Entrance, Learner, Unaccounted
from splitfed.run.agreed import Agreed, Settings, own_model
from splitfed.run.learner import LocalLearner, PartyData
from splitfed.run.results import (
    build_report,
    evaluate,
    fusion_row,
    privacy_row,
    save_model,
    standing_row,
)
from splitfed.run.spending import Account
from splitfed.sharing import Split, split_model
from splitfed.store import RunFolder
from splitfed.tensors import digest
from splitfed.transport.events import Greeting
from splitfed.transport.keys import Identity
from splitfed.transport.link import Link
from splitfed.transport.wire import Wire


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        exit_code: 0 done, 5 finished alone.
        report: what stands in report.json.
        note: one line for the operator, or "".
    """

    exit_code: int
    report: dict[str, Any]
    note: str = ""


def make_greeting(agreed: Agreed, name: str, folder: bytes, boot: int, purpose: str) -> Greeting:
    """What this party says about itself on every connection."""
    from splitfed import __version__

    return Greeting(
        name=name,
        contract=agreed.terms.contract,
        roster=agreed.roster,
        initial=digest(agreed.model.initial),
        folder=folder,
        boot=boot,
        purpose="check" if purpose == "check" else "run",
        software={"splitfed": __version__, "torch": str(torch.__version__)},
        contract_document=agreed.document,
        roster_document=agreed.roster_document,
    )


def make_link(
    wire: Wire,
    me: Identity,
    agreed: Agreed,
    greeting: Greeting,
    entrance: Entrance,
    peers: Sequence[str] | None = None,
) -> Link:
    """A link whose offers are checked by ``entrance`` and whose signatures by the roster."""
    others = [name for name in agreed.terms.parties if name != me.name]
    return Link(
        wire,
        me.name,
        others if peers is None else peers,
        greeting=greeting,
        accept=entrance.accept,
        wanted=entrance.wanted,
        verify=agreed.terms.signed_by,
    )


def live(
    *,
    agreed: Agreed,
    settings: Settings,
    me: Identity,
    model: nn.Module | None,
    data: PartyData,
    folder: RunFolder,
    wire: Wire,
    progress: Progress,
    account: Account | None = None,
    turn: AbstractContextManager[Any] | None = None,
    started: float | None = None,
    on_link: Callable[[Link], None] | None = None,
    routes: Mapping[str, str] | None = None,
    drive: Callable[[LocalLearner], Learner] | None = None,
    page: bool = True,
) -> Outcome:
    """Take part from the first round that is not closed to the report.

    Args:
        model: the party's own model, or None for a copy of the agreed one.
        wire: not yet open; closed on the way out.
        account: what releases are paid from; None under privacy mode "none".
        turn: see :class:`~splitfed.run.learner.LocalLearner`.
        started: when the process started, by time.monotonic(); None: now.
        on_link: told the link before it starts, for whoever must be able to close it.
        routes: how each peer is reached, in words, for the operator.
        drive: what the engine drives in the learner's place: a simulation's liars.
        page: whether report.json and report.html are written; nobody reads those of a
            simulation that keeps no folder.

    Raises:
        SplitfedError: see :class:`~splitfed.rounds.Engine`. The folder stays usable.
    """
    started = time.monotonic() if started is None else started
    terms, party = agreed.terms, me.name
    own = deepcopy(agreed.model.module) if model is None else model
    split = agreed.model.split if model is None else own_model(own, agreed.model, party)
    learner = make_learner(
        agreed, settings, party=party, model=own, split=split, data=data, turn=turn
    )
    entrance = Entrance(terms)
    greeting = make_greeting(agreed, party, folder.folder_id, folder.boot, "run")
    link = make_link(wire, me, agreed, greeting, entrance)
    if on_link is not None:
        on_link(link)
    engine = Engine(
        terms=terms,
        party=party,
        signer=me.secret,
        folder=folder,
        link=link,
        entrance=entrance,
        learner=learner if drive is None else drive(learner),
        initial=agreed.model.initial,
        greeting=greeting,
        progress=progress,
        patience=settings.patience,
        on_absent="finish-alone" if settings.on_absent == "finish-alone" else "wait",
        spending=Unaccounted() if account is None else account,
        routes=routes or {},
    )
    start_s = time.monotonic() - started
    with engine.telling as telling:
        ending, stop = _federate(engine, link, learner)
        telling.doing("fitting the private layers")
        made = [learner.fit()]
        judged = [row.get("judgement") for row in folder.history()]
        judged.append(telling.judgement(learner.last_judgement()))
        if ending.received is not None:
            telling.doing("fusing")
            made.append(learner.fuse(ending.received, ending.shared))
            if learner.unusable:
                progress.say(f"fusion came to nothing: {learner.unusable}")
                folder.log("unfused", reason=learner.unusable, parties=sorted(ending.received))
        telling.doing("evaluating")
        began = time.monotonic()
        report = build_report(
            agreed=agreed,
            party=party,
            split=split,
            rows=folder.history(),
            figures=evaluate(learner, agreed),
            ending=ending,
            traffic=link.traffic(),
            rejected=engine.rejected,
            alarms=[found["alarm"] for found in judged if found and found["alarm"]],
            privacy=privacy_row(agreed, account, folder),
            times={
                "start_s": start_s,
                "fit_s": sum(part.seconds for part in made),
                "fit_baseline_s": sum(part.baseline_seconds for part in made),
                "evaluate_s": time.monotonic() - began,
            },
            started=started,
        )
        report["faults"] |= standing_row(terms, folder)
        report["fusion"] = fusion_row(agreed, learner, ending, folder)
        report["kept"] = learner.personal()[0]
        save_model(folder, agreed, settings, learner, split, report)
        if report["kept"] == "local_only":
            progress.say(
                "kept the model trained alone: no other is clearly better on own validation images"
            )
        if page:
            write_report(folder.path, report)
    if stop is not None:
        raise stop
    note = f"finished alone: {ending.reason}" if ending.outcome == "alone" else ""
    if not note and not ending.confirmed:
        note = (
            "done, but not every peer confirmed the last round: run again later and it serves "
            "what they miss"
        )
    return Outcome(exit_code=5 if ending.outcome == "alone" else 0, report=report, note=note)


def _federate(
    engine: Engine, link: Link, learner: LocalLearner
) -> tuple[Ending, SafetyStop | None]:
    """The rounds, and the link closed after them. A safety stop that leaves a usable model is
    returned with the ending that it makes; every other error is raised."""
    try:
        return engine.run(), None
    except (OwnUpdatesExcluded, BudgetExceeded) as error:
        with suppress(SplitfedError):
            link.goodbye("failed", engine.closed)
        ending = Ending(
            outcome="budget" if isinstance(error, BudgetExceeded) else "excluded",
            confirmed=False,
            reason=error.message,
            shared=learner.shared(),
        )
        return ending, error
    except BaseException as error:
        # The peer waits for us either way; telling it why costs nothing.
        stopped = isinstance(error, KeyboardInterrupt)
        with suppress(SplitfedError):
            link.goodbye("interrupted" if stopped else "failed", engine.closed)
        raise
    finally:
        link.close()


def make_learner(
    agreed: Agreed,
    settings: Settings,
    *,
    party: str,
    model: nn.Module,
    split: Split,
    data: PartyData,
    turn: AbstractContextManager[Any] | None,
) -> LocalLearner:
    """The learner of the agreed privacy mode, with ``model`` as the party's own.

    Raises:
        ModelError, PrivacyError, DataError: model or data do not allow the mode.
    """
    common: dict[str, Any] = {
        "split": split,
        "data": data,
        "settings": settings.training,
        "classes": agreed.classes,
        "seed": agreed.seed,
        "party": party,
        "rounds": agreed.terms.rounds,
        "acceptance": settings.acceptance,
        "on_distrust": settings.on_distrust,
        "fusion": agreed.fusion,
        "own_fusion": settings.fusion,
        "algorithm": agreed.algorithm,
        "proximal": 0.0
        if agreed.mechanism is not None and agreed.mechanism.mode in DP_SGD
        else settings.training.proximal,
        "turn": turn,
    }
    mechanism = agreed.mechanism
    if mechanism is None:
        return LocalLearner(model, **common)
    from splitfed.privacy.guards import check_model
    from splitfed.run.private import PrivateLearner, UpdateLearner, federated_model

    check_model(model, split, mechanism.mode)
    if mechanism.mode == "party-update":
        return UpdateLearner(model, mechanism=mechanism, **common)
    federated = federated_model(model, split, agreed)
    tied = {alias for alias, name in split.aliases.items() if name in split.shared_names}
    all_shared = sorted(split.shared_names | tied)
    return PrivateLearner(
        model,
        federated=federated,
        federated_split=split_model(federated, shared=all_shared),
        mechanism=mechanism,
        records=agreed.records[party],
        **common,
    )
