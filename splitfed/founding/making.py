"""A party's folder from nothing: what `splitfed init` and the demo both do.

The first party founds: fresh keys, a party.toml and a federation.toml with its own block.
The next joins: fresh keys, a party.toml, and its block added to the file it was sent.
"""

from __future__ import annotations

import inspect
import shutil
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from splitfed.config import (
    DP_SGD,
    MODES,
    REFUSED,
    FederatedTrainingConfig,
    FederationConfig,
    PrivacyConfig,
    load_federation,
    parse,
)
from splitfed.config.algorithm import ALGORITHMS, DECIDING
from splitfed.config.faults import did_you_mean
from splitfed.config.fusion import RELEASES_PRIVATE
from splitfed.config.writing import federation_text, party_text, with_party, write_new
from splitfed.data import Preprocessing
from splitfed.errors import ConfigError, Fault, UserError
from splitfed.founding.reference import check_reference, method_of, reference_of
from splitfed.founding.sources import Sources, count_units
from splitfed.privacy.accounting import LARGEST_EPSILON, SMALLEST_EPSILON
from splitfed.privacy.proposal import DELTA, EPSILON, usual_arguments, usual_terms

FEDERATION, PARTY, SECRET = "federation.toml", "party.toml", "secret.json"


@dataclass(frozen=True, kw_only=True)
class Newcomer:
    """One party as it founds or joins.

    Attributes:
        party: its name in the agreement.
        address: where others can reach it, ``tcp://host:port``, or None.
        records: its public number of training images; None: counted by reading them.
        sources: its images.
        data_id: its own name for the data set.
        bind: where it listens, if not at ``address``.
        acceptance: whether it also trains the local_only baseline.
    """

    party: str
    address: str | None
    records: int | None
    sources: Sources
    data_id: str = "images"
    bind: str | None = None
    acceptance: bool = False


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What the first party proposes to agree on.

    Attributes:
        shared: patterns to share; None takes the model class's own declaration.
        arguments: the factory's; ``classes``, ``channels`` and ``size`` are filled in from
            the agreement where the factory takes them; under noise also tanh and GroupNorm.
        privacy: mode of [privacy].
        epsilon: of all that is sent; None: the usual one. So is ``delta``.
        fusion: "none", "distill", "average" or "ensemble"; None: "distill" where the sources
            name a reference set and the mode allows it.
        algorithm: what travels and which layers train when.
    """

    name: str
    classes: Sequence[str]
    factory: str = "splitfed.models:ThreeLayerCNN"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    shared: Sequence[str] | None = None
    rounds: int = 10
    seed: int = 1
    channels: int = 1
    size: tuple[int, int] = (28, 28)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    privacy: str = "dp-frozen"
    epsilon: float | None = None
    delta: float | None = None
    fusion: str | None = None
    algorithm: str = "fedper"


@dataclass(frozen=True, kw_only=True)
class Founded:
    """The files that were written, and the agreement as it stands now."""

    party_file: Path
    federation_file: Path
    secret_file: Path
    federation: FederationConfig


def found(folder: Path, proposal: Proposal, newcomer: Newcomer) -> Founded:
    """Writes a party's folder and a federation.toml with that one party.

    Runs the model factory once, on this machine, for the norm of the initial shared tensors.

    Raises:
        UserError: files that are there already, a model that cannot be built or split, or
            values that make no valid agreement. Nothing is written then.
    """
    _nothing_there(folder, (FEDERATION, PARTY, SECRET))
    channels = proposal.channels
    arguments = complete_arguments(proposal, folder)
    shared, bound = _initial(proposal, arguments, folder)
    _known_mode(proposal)
    reference = newcomer.sources.reference
    method = method_of(
        proposal.fusion, reference, privacy=proposal.privacy, classes=proposal.classes
    )
    fusion: dict[str, Any] = {"method": method}
    if method == "distill":
        assert reference is not None  # the method rests on it
        digest, count = reference_of(reference, _preprocessing(proposal), proposal.classes, folder)
        fusion["reference"] = {"digest": digest, "size": count}
    write = partial(
        federation_text,
        name=proposal.name,
        rounds=proposal.rounds,
        classes=proposal.classes,
        seed=proposal.seed,
        factory=proposal.factory,
        arguments=arguments,
        shared=shared,
        channels=channels,
        size=proposal.size,
        mean=proposal.mean or (0.5,) * channels,
        std=proposal.std or (0.5,) * channels,
        max_update_norm=bound,
        fusion=fusion,
        algorithm=proposal.algorithm,
    )

    def text_for(records: int) -> str:
        terms = usual_terms(
            proposal.privacy,
            records=records,
            epsilon=proposal.epsilon,
            delta=proposal.delta,
            outputs=method == "distill",
        )
        return write(privacy=terms)

    _check(text_for(newcomer.records or 1), newcomer, folder / FEDERATION)
    counted = _counted(newcomer, proposal, folder)
    assert counted.records is not None  # counted by now
    text = text_for(counted.records)
    _check(text, counted, folder / FEDERATION)  # delta against the number found
    return _write(folder, text, counted, folder / FEDERATION)


def join(folder: Path, received: Path, newcomer: Newcomer) -> Founded:
    """Writes a party's folder and adds its block to the agreement that it was sent.

    A ``received`` file in ``folder`` itself is completed in place; one from elsewhere is
    left as it is and completed in a copy.

    Raises:
        UserError: as :func:`found`; or the received file has faults.
    """
    target = folder / FEDERATION
    in_place = target.exists() and received.exists() and target.samefile(received)
    _nothing_there(folder, (PARTY, SECRET) if in_place else (FEDERATION, PARTY, SECRET))
    agreement = load_federation(received)
    text = received.read_text(encoding="utf-8")
    _check(text, newcomer, target)
    counted = _counted(newcomer, agreement, folder)
    _check(text, counted, target)  # delta against the number found
    check_reference(newcomer.sources.reference, agreement, folder, received)
    if not in_place and agreement.model.initial is not None:
        _bring_along(Path(agreement.model.initial.file), received, folder)
    return _write(folder, text, counted, target)


def complete_arguments(proposal: Proposal, folder: Path) -> dict[str, Any]:
    """The factory's arguments with what the agreement already says filled in."""
    from splitfed import lookup
    from splitfed.errors import ModelError

    found = lookup.find(proposal.factory, folder=folder, error=ModelError, what="--factory")
    agreed = {
        "channels": proposal.channels,
        "classes": len(proposal.classes),
        "size": list(proposal.size),
    }
    takes: Mapping[str, Any] = {}
    if callable(found):
        try:
            takes = inspect.signature(found).parameters
        except (TypeError, ValueError):  # some callables written in C have none
            takes = {}
    given = dict(proposal.arguments)
    fitting = {key: value for key, value in agreed.items() if key in takes}
    return {**fitting, **usual_arguments(proposal.privacy, takes), **given}


def _initial(
    proposal: Proposal, arguments: Mapping[str, Any], folder: Path
) -> tuple[tuple[str, ...] | None, float]:
    """The patterns that are shared (None where the algorithm decides), and the usual public bound
    on an update of them."""
    from splitfed.aggregation import norm_bound
    from splitfed.models import initialise
    from splitfed.sharing import algorithm_split, shared_tensors, split_model

    model = initialise(proposal.factory, arguments, proposal.seed, folder=folder)
    patterns = None if proposal.shared is None else tuple(proposal.shared)
    if proposal.algorithm not in ALGORITHMS:
        near = did_you_mean(proposal.algorithm, ALGORITHMS)
        raise UserError(
            f"--algorithm {proposal.algorithm}: no such algorithm{near}",
            f"choose one of: {', '.join(ALGORITHMS)}",
        )
    split = split_model(model, *algorithm_split(proposal.algorithm, model, patterns))
    if proposal.privacy != "none":
        from splitfed.privacy.guards import check_model

        check_model(model, split, proposal.privacy)
    start = shared_tensors(model, split)
    if proposal.algorithm in DECIDING:
        return None, norm_bound(start)
    declared: Any = patterns if patterns is not None else getattr(model, "shared", ())
    return (declared,) if isinstance(declared, str) else tuple(declared), norm_bound(start)


def _known_mode(proposal: Proposal) -> None:
    if proposal.privacy in REFUSED:
        raise UserError(f"--privacy {proposal.privacy} {REFUSED[proposal.privacy]}")
    if proposal.privacy not in MODES:
        near = did_you_mean(proposal.privacy, [mode for mode in MODES if mode != "none"])
        raise UserError(
            f"--privacy {proposal.privacy}: no such mode{near}",
            f"choose one of: {', '.join(MODES)}",
        )
    if proposal.epsilon is not None and not (
        SMALLEST_EPSILON <= proposal.epsilon <= LARGEST_EPSILON
    ):
        raise UserError(
            f"--epsilon {proposal.epsilon:g}",
            f"choose {SMALLEST_EPSILON:g} to {LARGEST_EPSILON:g}: beyond, no accountant here "
            "gives a figure that means anything",
        )
    if proposal.privacy == "none" and (proposal.epsilon or proposal.delta):
        raise UserError(
            "--epsilon and --delta contradict --privacy none, which adds no noise", "drop them"
        )


def _write(folder: Path, text: str, newcomer: Newcomer, target: Path) -> Founded:
    from splitfed.transport.keys import create_secret

    written = tomllib.loads(text)
    agreed = parse(PrivacyConfig, written["privacy"], str(target))
    method = written.get("fusion", {}).get("method")
    private, noised = agreed.mode != "none", agreed.mode in DP_SGD
    costs = (agreed.epsilon or EPSILON, agreed.delta or DELTA)
    usual = FederatedTrainingConfig()
    party = party_text(
        federation=FEDERATION,
        party=newcomer.party,
        secret_key=SECRET,
        data_id=newcomer.data_id,
        train=newcomer.sources.train,
        validation=newcomer.sources.validation,
        test=newcomer.sources.test,
        reference=newcomer.sources.reference if method == "distill" else None,
        consent_to=method if method in RELEASES_PRIVATE else None,
        bind=newcomer.bind,
        acceptance=newcomer.acceptance,
        budget=costs if private else None,
        federated=(usual.lr, usual.momentum) if noised else None,
    )
    _make(folder)
    keys = create_secret(folder / SECRET)
    full = _with(
        text, newcomer, {"public_key": keys.public_key, "signing_key": keys.signing_key}, target
    )
    if target.exists():
        replaced = target.with_suffix(".toml.new")
        replaced.write_text(full, encoding="utf-8")
        replaced.replace(target)
    else:
        write_new(target, full)
    write_new(folder / PARTY, party)
    return Founded(
        party_file=folder / PARTY,
        federation_file=target,
        secret_file=folder / SECRET,
        federation=load_federation(target),
    )


def _bring_along(initial: Path, received: Path, folder: Path) -> None:
    """Copies the initial tensors that lie beside a received agreement to beside its copy."""
    place = folder / initial.relative_to(received.absolute().parent)
    if not place.exists():
        _make(place.parent)
        shutil.copyfile(initial, place)


def _with(text: str, newcomer: Newcomer, keys: Mapping[str, str], target: Path) -> str:
    assert newcomer.records is not None  # counted by now
    return with_party(
        text,
        newcomer.party,
        public_key=keys["public_key"],
        signing_key=keys["signing_key"],
        address=newcomer.address,
        records=newcomer.records,
        file=str(target),
    )


def _check(text: str, newcomer: Newcomer, target: Path) -> None:
    """The whole agreement with keys of the right form, before any file is read or made."""
    stand_in = {"public_key": "0" * 40, "signing_key": "1" * 64}
    known = newcomer if newcomer.records is not None else replace(newcomer, records=1)
    full = _with(text, known, stand_in, target)
    parse(FederationConfig, tomllib.loads(full), str(target))


def _counted(newcomer: Newcomer, agreement: Proposal | FederationConfig, folder: Path) -> Newcomer:
    if newcomer.records is not None:
        return newcomer
    by_patient = False
    if isinstance(agreement, Proposal):
        preprocessing = _preprocessing(agreement)
    else:
        preprocessing = Preprocessing(**agreement.preprocessing.model_dump())
        by_patient = agreement.privacy.unit == "patient"
    found = count_units(
        newcomer.sources.train, preprocessing, agreement.classes, folder, by_patient=by_patient
    )
    return replace(newcomer, records=found)


def _preprocessing(proposal: Proposal) -> Preprocessing:
    usual = (0.5,) * proposal.channels
    return Preprocessing(
        channels=proposal.channels,
        size=proposal.size,
        mean=proposal.mean or usual,
        std=proposal.std or usual,
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be made: {error.strerror}", "name a folder that you may write"
        ) from None


def _nothing_there(folder: Path, names: Sequence[str]) -> None:
    there = [folder / name for name in names if (folder / name).exists()]
    if there:
        cure = "is there already and is not overwritten; choose another folder"
        raise ConfigError([Fault(str(path), "(file)", "", cure) for path in there])
