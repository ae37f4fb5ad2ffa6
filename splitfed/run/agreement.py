"""The two files of a party, made ready to run: agreement, fusion, data, own settings."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import nn

from splitfed.config import PartyConfig, ReferenceConfig, canonical_json
from splitfed.config.fusion import TEMPERATURE
from splitfed.data import ImageSet, Preprocessing, data_digest, load
from splitfed.data.request import Part, parse
from splitfed.errors import ConfigError, Fault, PrivacyError
from splitfed.models import initialise, load_initial
from splitfed.privacy import mechanism_of
from splitfed.privacy.guards import check_model
from splitfed.rounds import UPDATE, Terms, plan
from splitfed.run.agreed import Agreed, Settings, agree_on_model
from splitfed.run.facts import keys_followed
from splitfed.run.fusing import AgreedFusion, Recipe
from splitfed.run.learner import PartyData
from splitfed.sharing.algorithms import algorithm_split
from splitfed.store import FolderView


@dataclass(frozen=True, kw_only=True)
class Begun:
    """What a run folder says of the federation that it is under way with.

    Attributes:
        noise_multiplier: σ as it follows from the first agreement; None without noise.
        kinds: what was exchanged and closed.
    """

    noise_multiplier: float | None = None
    kinds: tuple[str, ...] = ()


def agree(config: PartyConfig, *, begun: Begun | None = None) -> Agreed:
    """What federation.toml says, ready to run. Where it names a reference set, its digest and
    size must be known already: see :func:`with_reference`.

    Args:
        begun: a federation that is under way; None: as the agreement has it.

    Raises:
        ModelError, SharingError: the model cannot be built or split as agreed.
        PrivacyError: the agreed privacy cannot be kept, or not with this model.
    """
    federation = config.federation
    module = initialise(
        federation.model.factory,
        federation.model.arguments,
        federation.seed,
        folder=config.folder,
    )
    shared, private = algorithm_split(
        federation.algorithm, module, federation.model.shared, federation.model.private
    )
    model = agree_on_model(module, shared, private)
    if federation.model.initial is not None:
        file = config.federation_path.parent / federation.model.initial.file
        pretrained = load_initial(file, model.split.shared, federation.model.initial.digest)
        model = agree_on_model(module, shared, private, pretrained)
    records = {name: entry.records for name, entry in federation.parties.items()}
    parties, classes = tuple(sorted(federation.parties)), tuple(federation.classes)
    fusion = _agreed_fusion(config, module)
    root = federation.aggregation.root
    keys = {name: entry.keys for name, entry in federation.parties.items()}
    terms = Terms(
        contract=federation.contract_digest,
        parties=parties,
        signing_keys={name: one.present for name, one in keys.items()},
        retired_keys={name: one.retired for name, one in keys.items()},
        revoked_keys={name: one.revoked for name, one in keys.items()},
        shared=model.split.shared,
        rounds=federation.rounds,
        max_update_norm=federation.aggregation.max_update_norm,
        weights=federation.weights(),
        minimum_parties=federation.minimum_parties,
        max_void_rounds=federation.aggregation.max_void_rounds,
        rule=federation.aggregation.rule,
        byzantine=federation.aggregation.byzantine,
        clip=federation.aggregation.clip,
        root=None if root is None else root.party,
        fusion=None if fusion is None else fusion.terms(parties, len(classes), model.patterns),
    )
    begun = begun or Begun()
    try:
        mechanism = mechanism_of(
            federation.privacy,
            rounds=federation.rounds,
            records=records,
            noise_multiplier=begun.noise_multiplier,
            fusions=sum(kind != UPDATE for kind in plan(begun.kinds, terms)),
            fusing=fusion is not None,
        )
        if mechanism is not None:
            check_model(module, model.split, mechanism.mode)
        if mechanism is not None and mechanism.fusion is not None:
            from splitfed.run.private import last_layer

            if federation.model.public_head is None:
                last_layer(module, model.split)
    except PrivacyError as error:
        raise PrivacyError(f"{config.federation_path}: {error.message}", error.cure) from None
    pictures = federation.preprocessing
    return Agreed(
        terms=terms,
        model=model,
        classes=classes,
        seed=federation.seed,
        factory=federation.model.factory,
        document=canonical_json(federation.contract()).decode(),
        roster=federation.roster_digest,
        roster_document=canonical_json(federation.roster()).decode(),
        records=records,
        size=(pictures.channels, *pictures.size),
        mechanism=mechanism,
        public_head=federation.model.public_head is not None,
        algorithm=federation.algorithm,
        fusion=fusion,
        arguments=federation.model.arguments,
        preprocessing=_preprocessing(config),
    )


def _agreed_fusion(config: PartyConfig, agreed: nn.Module) -> AgreedFusion | None:
    """[fusion] of the agreement, with every party's model where private layers leave.

    Raises:
        ModelError: the model of another party cannot be built here.
    """
    federation = config.federation
    fusion, reference = federation.fusion, federation.fusion.reference
    if fusion.method == "none":
        return None
    models: dict[str, nn.Module] = {}
    recipes: dict[str, Recipe] = {}
    if fusion.method != "distill":
        for name, entry in sorted(federation.parties.items()):
            models[name] = agreed
            if entry.model is not None:
                recipe = Recipe(factory=entry.model.factory, arguments=entry.model.arguments)
                recipes[name] = recipe
                models[name] = initialise(
                    recipe.factory, recipe.arguments, federation.seed, folder=config.folder
                )
    return AgreedFusion(
        method=fusion.method,
        every=fusion.every,
        temperature=TEMPERATURE if fusion.temperature is None else fusion.temperature,
        reference_size=None if reference is None else reference.size,
        reference_digest=None if reference is None else reference.digest,
        models=models,
        recipes=recipes,
    )


def with_reference(config: PartyConfig) -> tuple[PartyConfig, ImageSet | None]:
    """``config`` with digest and size of the reference images in its agreement, and the images;
    None without any.

    Raises:
        ConfigError: my images are others than those that were agreed on.
        DataError: they cannot be read.
    """
    agreed, source = config.federation.fusion.reference, config.data.reference
    if agreed is None or source is None:
        return config, None
    images = _part(config, "reference", source)
    found = ReferenceConfig(digest=data_digest(images).hex(), size=len(images))
    faults = [
        Fault(
            str(config.federation_path),
            f"fusion.reference.{key}",
            f'"{wanted}"' if isinstance(wanted, str) else str(wanted),
            f"[data] reference = {source} of {config.path} has {key} {having}: all parties need "
            "the same images in the same order, with the same [preprocessing]",
        )
        for key in ("digest", "size")
        if (wanted := getattr(agreed, key)) is not None
        and wanted != (having := getattr(found, key))
    ]
    if faults:
        raise ConfigError(faults)
    fusion = config.federation.fusion.model_copy(update={"reference": found})
    federation = config.federation.model_copy(update={"fusion": fusion})
    return replace(config, federation=federation), images


def no_key_from_before(config: PartyConfig, folder: FolderView) -> None:
    """Refuse an agreement that was put back: a key that another one replaced, and perhaps revoked
    as stolen, would be let in again.

    Raises:
        ConfigError: a party's present key is one that it no longer had in this folder.
    """
    followed = keys_followed(folder)
    faults = [
        Fault(
            str(config.federation_path),
            f"parties.{name}.signing_key",
            f'"{entry.signing_key}"',
            f"was replaced in the run that {folder.path} holds, by {followed[name].present}: this "
            "file is older than the run; take the newest one over from your own backup or a peer",
        )
        for name, entry in sorted(config.federation.parties.items())
        if name in followed
        and entry.signing_key in (*followed[name].retired, *followed[name].revoked)
    ]
    if faults:
        raise ConfigError(faults)


def settings_of(config: PartyConfig) -> Settings:
    """What party.toml says about this party's own ways."""
    own = config.model
    request = parse(
        config.data.train,
        preprocessing=_preprocessing(config),
        classes=tuple(config.federation.classes),
        part="train",
        root=config.folder,
        options=config.data.options,
    )
    return Settings(
        training=config.training,
        acceptance=config.defence.acceptance,
        on_distrust=config.defence.on_distrust,
        patience=config.link.patience,
        on_absent=config.link.on_absent,
        fusion=config.fusion,
        recipe=None if own is None else Recipe(factory=own.factory, arguments=own.arguments),
        code=config.folder,
        convert=tuple(sorted(request.fitting.convert)),
    )


def load_data(config: PartyConfig) -> PartyData:
    """The party's three labelled sets.

    Raises:
        DataError: naming the file.
        ConfigError: this party trains on the agreed root set, and it is another one.
    """
    train = _part(config, "train", config.data.train)
    _check_root_set(config, train)
    return PartyData(
        train=train,
        validation=_part(config, "validation", config.data.validation),
        test=_part(config, "test", config.data.test),
    )


def _check_root_set(config: PartyConfig, train: ImageSet) -> None:
    root = config.federation.aggregation.root
    if root is None or root.digest is None or root.party != config.party:
        return
    if root.digest != (found := data_digest(train).hex()):
        cure = (
            f"[data] train = {config.data.train} of {config.path} has digest {found}: the root "
            "party trains on the agreed root set, in its agreed order and [preprocessing]"
        )
        raise ConfigError(
            [Fault(str(config.federation_path), "aggregation.root.digest", root.digest, cure)]
        )


def _preprocessing(config: PartyConfig) -> Preprocessing:
    agreed = config.federation.preprocessing
    return Preprocessing(
        channels=agreed.channels, size=agreed.size, mean=agreed.mean, std=agreed.std
    )


def _part(config: PartyConfig, name: Part, source: str) -> ImageSet:
    return load(
        source,
        preprocessing=_preprocessing(config),
        classes=tuple(config.federation.classes),
        part=name,
        root=config.folder,
        options=config.data.options,
    )
