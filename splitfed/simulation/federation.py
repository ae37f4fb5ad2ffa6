"""Describe a federation in Python and run every party of it in this process.

The parties run the code of ``splitfed run`` - engine, gates, ledger, votes - each in a
thread of its own, over the in-memory link. They take turns at computing, because torch's
global generator belongs to the process; so the results are the same every time.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from splitfed.aggregation import norm_bound
from splitfed.config import (
    FederationConfig,
    FusionConfig,
    OwnFusionConfig,
    PrivacyConfig,
    TrainingConfig,
    canonical_json,
    digest_of,
    parse,
)
from splitfed.config.algorithm import Algorithm
from splitfed.config.federation import default_minimum
from splitfed.config.fusion import TEMPERATURE
from splitfed.config.privacy import fusion_and_privacy
from splitfed.data import ImageSet, data_digest
from splitfed.errors import ConfigError, Fault, UserError
from splitfed.models import build
from splitfed.privacy import mechanism_of
from splitfed.privacy.guards import check_model
from splitfed.progress import Progress, Silent
from splitfed.random import forked
from splitfed.rounds import Terms
from splitfed.run.agreed import Agreed, Settings, agree_on_model
from splitfed.run.fusing import AgreedFusion, Recipe
from splitfed.run.learner import PartyData
from splitfed.run.life import Outcome, live
from splitfed.run.spending import Account
from splitfed.run.words import last_words
from splitfed.sharing.algorithms import algorithm_split
from splitfed.simulation.crew import Crew
from splitfed.simulation.given import Images, check_leaving, images_of, optional, unlabelled
from splitfed.simulation.party import Factory, Party
from splitfed.simulation.rule import aggregation_of, weights_of
from splitfed.simulation.stage import Stage, trained_on
from splitfed.store import RunFolder
from splitfed.transport.keys import Identity, Secret, make_secret
from splitfed.transport.memory import MemoryHub


@dataclass(frozen=True, kw_only=True)
class Federation:
    """The agreement of a simulated federation; the same fields as federation.toml.

    Attributes:
        model: a class or function without arguments that returns the model, or
            ``"package.module:Class"`` with ``arguments``.
        arguments: keyword arguments of a factory given by name.
        shared: patterns of what travels; None takes the model class's declaration.
        private: patterns of what stays; None: the rest.
        rounds: number of rounds.
        classes: class names in order; () for a regression.
        privacy: "none" (NO PRIVACY GUARANTEE), or the keys of [privacy] such as
            ``{"mode": "dp-frozen", "epsilon": 8.0, "delta": 1e-5, ...}``.
        public_head: "pool-linear" under "dp-frozen" with private parts that differ.
        seed: public seed of initial values and batches.
        training: how every party trains, unless it has settings of its own.
        max_update_norm: public bound on an update; None: max(1, ‖g₀‖) rounded up.
        weights: "equal", "records" (training set sizes), or a weight per party.
        rule: how updates become one: "mean", "median", "trimmed-mean", "krum", "multi-krum",
            "bulyan", "geometric-median", "centred-clipping" or "fltrust".
        byzantine: how many lying parties the rule must stand.
        clip: the radius of "centred-clipping".
        root: under "fltrust", the name of the party that trains on the agreed root set.
        minimum_parties: admitted updates below which a round is void; None: both of two,
            else a strict majority.
        max_void_rounds: void rounds, in all, after which the federation ends.
        acceptance: also train the local_only branch that verdict and judgement compare with.
        on_distrust: "warn" or "leave": what every party does when its judgement fails.
        algorithm: "fedper", "fedavg", "fedrep", "fedbabu", "fedbn" or "lg-fedavg".
        fusion: "none", "distill", "average" or "ensemble", or the keys of [fusion] such as
            ``{"method": "distill", "every": 2}``. In one process, consent to releasing private
            layers is taken for granted.
        reference: the unlabelled images of "distill"; labels are not looked at.
        fusing: how every party learns from what is exchanged for fusion.
    """

    model: Factory
    rounds: int
    classes: Sequence[str]
    privacy: str | Mapping[str, Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shared: str | Sequence[str] | None = None
    private: str | Sequence[str] | None = None
    seed: int = 0
    training: TrainingConfig = field(default_factory=TrainingConfig)
    max_update_norm: float | None = None
    weights: str | Mapping[str, float] = "equal"
    rule: str = "mean"
    byzantine: int = 0
    clip: float | None = None
    root: str | None = None
    minimum_parties: int | None = None
    max_void_rounds: int = 3
    acceptance: bool = False
    on_distrust: str = "warn"
    public_head: str | None = None
    algorithm: Algorithm = "fedper"
    fusion: str | Mapping[str, Any] = "none"
    reference: Images | torch.Tensor | None = None
    fusing: OwnFusionConfig = field(default_factory=OwnFusionConfig)

    def simulate(
        self,
        parties: Sequence[Party],
        *,
        out: Path | None = None,
        progress: Callable[[str], Progress] | None = None,
        stage: Stage | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Run the whole federation and return each party's report by name.

        Args:
            parties: two or more.
            out: where the run folders are kept; None: a temporary folder.
            progress: gives each party's progress by its name.
            stage: keeps each party's learner for whoever measures more than the reports tell.

        Raises:
            UserError: an agreement that cannot work, such as a name used twice.
            SplitfedError: whatever a party's run raises; the others are stopped then.
        """
        secrets = {party.name: make_secret() for party in parties}
        agreed = self._agree(parties, secrets)
        stage = stage or Stage()
        stage.pages = out is not None
        with ExitStack() as stack:
            if out is None:
                out = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitfed-")))
            outcomes = self._run(agreed, secrets, parties, out, progress or _silent, stage)
        return {name: outcome.report for name, outcome in sorted(outcomes.items())}

    # --- the agreement -----------------------------------------------------------------

    def _agree(self, parties: Sequence[Party], secrets: Mapping[str, Secret]) -> Agreed:
        names = [party.name for party in parties]
        if len(set(names)) != len(names) or len(names) < 2:
            raise UserError(f"parties = {names}", "give two or more parties with different names")
        privacy = self._privacy(parties)
        built = self._build(self.model)
        model = agree_on_model(
            built, *algorithm_split(self.algorithm, built, self.shared, self.private)
        )
        fusion = self._fusion(parties, privacy, built)
        records = {p.name: _units(images_of(p.train), privacy.unit) for p in parties}
        mechanism = mechanism_of(
            privacy, rounds=self.rounds, records=records, fusing=fusion is not None
        )
        if mechanism is not None:
            check_model(model.module, model.split, mechanism.mode)
        bound = self.max_update_norm or norm_bound(model.initial)
        minimum = self.minimum_parties or default_minimum(len(names))
        aggregation = aggregation_of(
            names,
            rule=self.rule,
            byzantine=self.byzantine,
            clip=self.clip,
            root=None if self.root is None else {"party": self.root},
            weights=self.weights,
            max_update_norm=bound,
            minimum_parties=minimum,
            max_void_rounds=self.max_void_rounds,
        )
        document = {
            "schema": FederationConfig.CONTRACT_SCHEMA,
            "model": {
                "factory": _name(self.model),
                "arguments": dict(self.arguments),
                "shared": self.shared,
                "private": self.private,
                "public_head": self.public_head,
            },
            "rounds": self.rounds,
            "classes": list(self.classes),
            "seed": self.seed,
            "algorithm": self.algorithm,
            "privacy": privacy.model_dump(mode="json"),
            "fusion": None
            if fusion is None
            else {
                "method": fusion.method,
                "every": fusion.every,
                "temperature": fusion.temperature,
                "reference": [fusion.reference_digest, fusion.reference_size],
            },
            "aggregation": aggregation.model_dump(mode="json"),
            "parties": {name: {"records": records[name]} for name in sorted(names)},
        }
        roster = {
            name: {"public_key": secret.curve_public, "signing_key": secret.signing_public}
            for name, secret in sorted(secrets.items())
        }
        terms = Terms(
            contract=digest_of("contract", document),
            parties=tuple(sorted(names)),
            signing_keys={name: entry["signing_key"] for name, entry in roster.items()},
            shared=model.split.shared,
            rounds=self.rounds,
            max_update_norm=bound,
            weights=weights_of(self.weights, records),
            minimum_parties=minimum,
            max_void_rounds=self.max_void_rounds,
            rule=self.rule,
            byzantine=self.byzantine,
            clip=self.clip,
            root=self.root,
            fusion=None
            if fusion is None
            else fusion.terms(tuple(sorted(names)), len(self.classes), model.patterns),
        )
        return Agreed(
            terms=terms,
            model=model,
            classes=tuple(self.classes),
            seed=self.seed,
            document=canonical_json(document).decode(),
            roster_document=canonical_json(roster).decode(),
            roster=digest_of("roster", roster),
            factory=_name(self.model),
            records=records,
            size=tuple(images_of(parties[0].train).images.shape[1:]),
            mechanism=mechanism,
            public_head=self.public_head is not None,
            algorithm=self.algorithm,
            fusion=fusion,
            arguments=self.arguments,
        )

    def _fusion(
        self, parties: Sequence[Party], privacy: PrivacyConfig, built: nn.Module
    ) -> AgreedFusion | None:
        method = self.fusion
        keys: dict[str, Any] = {"method": method} if isinstance(method, str) else dict(method)
        if self.reference is not None:
            images = unlabelled(self.reference)
            keys["reference"] = {"digest": data_digest(images).hex(), "size": len(images)}
        where = "Federation(fusion=...)"
        fusion = parse(FusionConfig, keys, where)
        faults = [
            Fault(where, finding.key, str(finding.value), finding.cure)
            for finding in fusion_and_privacy(fusion, privacy)
        ]
        if faults:
            raise ConfigError(faults)
        own = [party.name for party in parties if party.model is not None]
        if fusion.method == "average" and own:
            raise UserError(
                f"{', '.join(own)} with a private part of its own, and fusion = 'average'",
                "private layers that differ cannot be averaged: use 'distill' or 'ensemble'",
            )
        if fusion.every is not None and self.algorithm == "fedbabu":
            raise UserError(
                "every with algorithm = 'fedbabu', whose private layers keep their initial values",
                "leave every out: their outputs mean nothing before the last round",
            )
        if fusion.method == "none":
            return None
        models = {p.name: built if p.model is None else self._build(p.model) for p in parties}
        return AgreedFusion(
            method=fusion.method,
            every=fusion.every,
            temperature=TEMPERATURE if fusion.temperature is None else fusion.temperature,
            reference_size=None if fusion.reference is None else fusion.reference.size,
            reference_digest=None if fusion.reference is None else fusion.reference.digest,
            models=models,
            recipes={
                p.name: Recipe(factory=_name(p.model), arguments=self.arguments)
                for p in parties
                if p.model is not None
            },
        )

    def _privacy(self, parties: Sequence[Party]) -> PrivacyConfig:
        keys = {"mode": self.privacy} if isinstance(self.privacy, str) else dict(self.privacy)
        privacy = parse(PrivacyConfig, keys, "Federation(privacy=...)")
        check_leaving(self.acceptance, self.on_distrust, privacy.mode)
        if self.public_head not in (None, "pool-linear") or (
            self.public_head and privacy.mode != "dp-frozen"
        ):
            raise UserError(
                f"public_head = {self.public_head!r} with privacy mode {privacy.mode!r}",
                'use "pool-linear" under "dp-frozen", or leave it out',
            )
        own = [party.name for party in parties if party.model is not None]
        if privacy.mode == "dp-frozen" and own and self.public_head is None:
            raise UserError(
                f"{', '.join(own)} with a private part of its own under dp-frozen",
                'give public_head = "pool-linear": private layers that differ would freeze '
                "differently and pull the shared ones apart",
            )
        return privacy

    def _build(self, factory: Factory) -> nn.Module:
        with forked(self.seed, "model"):
            if isinstance(factory, str):
                return build(factory, self.arguments)
            return factory()

    # --- the run -----------------------------------------------------------------------

    def _run(
        self,
        agreed: Agreed,
        secrets: Mapping[str, Secret],
        parties: Sequence[Party],
        out: Path,
        progress: Callable[[str], Progress],
        stage: Stage,
    ) -> dict[str, Outcome]:
        hub = MemoryHub(party.name for party in parties)
        stage.open(agreed, {party.name: party.attack for party in parties})
        turn, crew = threading.RLock(), Crew()

        def one(party: Party) -> Outcome:
            path = out / party.name
            with (
                RunFolder.open(
                    path, party=party.name, contract=agreed.terms.contract, document=agreed.document
                ) as folder,
                last_words(folder) as ended,
                stage.playing(party.name),
            ):
                outcome = live(
                    agreed=agreed,
                    settings=Settings(
                        training=party.training or self.training,
                        acceptance=self.acceptance,
                        on_distrust=self.on_distrust,
                        fusion=self.fusing.model_copy(update={"release_private": True}),
                    ),
                    me=Identity(name=party.name, secret=secrets[party.name]),
                    model=None if party.model is None else self._build(party.model),
                    data=PartyData(
                        train=trained_on(party, len(self.classes), self.seed),
                        validation=optional(party.validation),
                        test=optional(party.test),
                        reference=None if self.reference is None else unlabelled(self.reference),
                    ),
                    folder=folder,
                    wire=hub.wire(party.name),
                    progress=progress(party.name),
                    account=_account(agreed, party.name),
                    turn=turn,
                    on_link=crew.join,
                    drive=partial(stage.learner, party.name),
                    page=stage.pages,
                )
                return ended(outcome)

        return crew.run({party.name: partial(one, party) for party in parties})


def _account(agreed: Agreed, party: str) -> Account | None:
    """Accounting without a budget: a simulation releases nothing to anybody."""
    if agreed.mechanism is None:
        return None
    return Account(mechanism=agreed.mechanism, party=party)


def _units(data: ImageSet, unit: str | None) -> int:
    return len(set(data.groups)) if unit == "patient" and data.groups else len(data)


def _silent(name: str) -> Progress:
    return Silent()


def _name(factory: Factory) -> str:
    if isinstance(factory, str):
        return factory
    of = factory if hasattr(factory, "__qualname__") else type(factory)
    return f"{of.__module__}:{of.__qualname__}"
