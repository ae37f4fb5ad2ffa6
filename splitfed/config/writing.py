"""Writing the two files, with comments that a person can work from.

federation.toml is edited by several hands, so a new party's block is added to the text as
it stands: comments, order and layout of what is already there are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit import TOMLDocument
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Item, Table

from splitfed.errors import ConfigError, Fault

_FEDERATION = """\
# What the institutions agree on. Every party holds the same copy; `splitfed check` and
# `splitfed run` compare the copies and stop before any training where they differ.
# Addresses alone are not compared: they may change.

name = {name}
rounds = {rounds}
# The order of the classes is part of the agreement: class 0 is the first of them everywhere.
classes = {classes}
# Public: it fixes the initial values of the shared layers.
seed = {seed}
# What travels and which layers train when: "fedper" (the shared layers below; all layers train),
# "fedrep", "fedbabu" (the same layers; other training), or "fedavg", "fedbn", "lg-fedavg", which
# decide what is shared by themselves: then drop [model] shared.
algorithm = {algorithm}

[model]
# Code: whoever loads this agreement runs what factory names. Read it before you do.
factory = {factory}
arguments = {arguments}
# Only shared layers ever leave a party; `splitfed plan party.toml` lists every tensor.
{shared}
[preprocessing]
# Public constants, the same for everyone; never statistics of anyone's data.
channels = {channels}
size = {size}
mean = {mean}
std = {std}

[aggregation]
# Of more than two parties some may lie: docs/robustness.md says which rule stands what. All but
# "mean" need three parties or more; byzantine says how many lying ones the rule must stand.
rule = "mean"
# An update that is longer than this is excluded by everyone: max(1, norm of the initial
# shared layers), rounded up.
max_update_norm = {max_update_norm}
# "equal", "records" (by the numbers below) or a table such as {{ hospital-a = 2, hospital-b = 1 }}.
weights = "equal"
# Of three parties and more, so many must take part in a round; left out: more than half.
# minimum_parties = 2
max_void_rounds = 3

[privacy]
# Required, so that nobody shares without having chosen. "dp-frozen" and "dp-all" noise every
# step of training, "party-update" every update; "none" is NO PRIVACY GUARANTEE.
{privacy}
[fusion]
# What happens after the last round. "distill": every party computes class probabilities of
# unlabelled images that all hold, and its model learns from the average. "average" and
# "ensemble": the private layers leave, once, if every party consents. "none": nothing.
{fusion}
# One block a party, added by its own `splitfed init`. address: where the others can reach it;
# of any two parties one must have one. records: its public number of training images.
"""

_PARTY = """\
# This institution's own business. Nothing in this file leaves the machine.
# Paths are relative to the folder of this file.

federation = {federation}
party = {party}
# Made by `splitfed init`, readable by you alone. Never copy it, never send it.
secret_key = {secret_key}

[link]
{bind}# Seconds to wait for an absent party; 0 waits for ever. After that the run ends with exit
# code 3, or goes on without the other with on_absent = "finish-alone" (exit code 5). Of three
# and more the others first go on without one that is absent, if more than half are left.
patience = 0
on_absent = "wait"

[data]
# A name of your own for this data set.
id = {id}
# {sources}
train = {train}
validation = {validation}
test = {test}
{reference}{budget}
[training]
{training}optimizer = "sgd"
lr = 0.05
momentum = 0.9
batch_size = 32
# Passes over the training images a round (or steps = N instead).
epochs = 1
device = "cpu"
threads = {threads}
{federated}
{fusion}[defence]
# true: also train the same model on your images alone, so that the report can say whether
# the federation helped you, and warns you when it harms you. Costs the training once more.
acceptance = {acceptance}
# With acceptance, when taking part costs accuracy two rounds running: "warn", or "leave".
on_distrust = "warn"
"""


_FUSION_KEYS = {
    "reference": "Those images, as [data] reference of every party.toml names them: no labels.",
}

_PRIVACY_KEYS = {
    "fusion_epsilon": "The part of epsilon that pays for outputs ([fusion]).",
    "epsilon": "Of all that is sent together; the noise follows (or noise_multiplier instead).",
    "max_grad_norm": "What is noised is clipped to this norm first.",
    "sample_rate": "Each record is in each step with this probability, by chance alone.",
    "unit": '"patient" protects all images of a patient together, and needs patient ids.',
}

_BUDGET = """\
# The most that all runs on these data may ever spend together. budget.sqlite beside this file
# keeps the account; a round that would exceed it is not begun.
budget_epsilon = {epsilon}
budget_delta = {delta}
"""

_CONSENT = """\
[fusion]
# The agreed method, {method}, lets the private layers of every party leave once, after the last
# round. true: your institution consents; `splitfed plan party.toml` lists them. Until then no run.
release_private = false

"""

_FEDERATED = """
# The noised steps of the federation; [privacy] in federation.toml says how many there are.
[training.federated]
lr = {lr}
momentum = {momentum}
"""


def federation_text(
    *,
    name: str,
    rounds: int,
    classes: Sequence[str],
    seed: int,
    factory: str,
    arguments: Mapping[str, Any],
    shared: Sequence[str] | None,
    channels: int,
    size: Sequence[int],
    mean: Sequence[float],
    std: Sequence[float],
    max_update_norm: float,
    privacy: Mapping[str, Any],
    fusion: Mapping[str, Any],
    algorithm: str = "fedper",
) -> str:
    """A federation.toml without any party yet.

    Args:
        privacy: the keys of [privacy], in the order in which they are written.
        fusion: those of [fusion].
        shared: patterns; None where the algorithm decides.
    """
    return _FEDERATION.format(
        name=_toml(name),
        rounds=_toml(rounds),
        classes=_toml(list(classes)),
        seed=_toml(seed),
        factory=_toml(factory),
        arguments=_toml(dict(arguments)),
        shared="" if shared is None else f"shared = {_toml(list(shared))}\n",
        algorithm=_toml(algorithm),
        channels=_toml(channels),
        size=_toml(list(size)),
        mean=_toml(list(mean)),
        std=_toml(list(std)),
        max_update_norm=_toml(max_update_norm),
        privacy=_lines(privacy, _PRIVACY_KEYS),
        fusion=_lines(fusion, _FUSION_KEYS),
    )


def _lines(values: Mapping[str, Any], remarks: Mapping[str, str]) -> str:
    """One line a key, with what there is to remark above it."""
    return "".join(
        f"# {remarks[key]}\n{key} = {_toml(value)}\n"
        if key in remarks
        else f"{key} = {_toml(value)}\n"
        for key, value in values.items()
    )


def with_party(
    text: str,
    party: str,
    *,
    public_key: str,
    signing_key: str,
    address: str | None,
    records: int,
    file: str = "federation.toml",
) -> str:
    """``text`` with one more [parties.NAME] block at its end.

    Raises:
        ConfigError: the text is no TOML, or has this party already.
    """
    document = _document(text, file)
    parties = document.get("parties")
    if parties is None:
        parties = tomlkit.table(is_super_table=True)
        document.append("parties", parties)
    if not isinstance(parties, dict):
        raise ConfigError([Fault(file, "parties", "", "should be tables [parties.NAME]")])
    if party in parties:
        cure = "is in this agreement already; choose another --party name"
        raise ConfigError([Fault(file, f"parties.{party}", "", cure)])
    block: Table = tomlkit.table()
    if address is not None:
        block.add("address", address)
    block.add("records", records)
    block.add("public_key", public_key)
    block.add("signing_key", signing_key)
    block.add(tomlkit.nl())
    parties[party] = block
    return tomlkit.dumps(document).rstrip("\n") + "\n"


def with_new_keys(
    text: str,
    party: str,
    *,
    public_key: str,
    signing_key: str,
    statement: str | None,
    file: str = "federation.toml",
) -> str:
    """``text`` with other keys in the [parties.NAME] block, and the old ones in its ``retired``.

    Args:
        statement: the old key's signature over the new ones (hex); None: the old keys are revoked.

    Raises:
        ConfigError: the text is no TOML, or has no such party.
    """
    document = _document(text, file)
    parties = document.get("parties")
    block = parties.get(party) if isinstance(parties, dict) else None
    if not isinstance(block, dict):
        raise ConfigError([Fault(file, f"parties.{party}", "", "is not in this agreement")])
    reason = {"revoked": True} if statement is None else {"statement": statement}
    old = {"public_key": block["public_key"], "signing_key": block["signing_key"]}
    retired = tomlkit.array()
    for entry in (*block.get("retired", ()), {**old, **reason}):
        retired.add_line(_inline(entry))
    retired.add_line(indent="")
    block["public_key"], block["signing_key"] = public_key, signing_key
    block["retired"] = retired
    return tomlkit.dumps(document)


def _document(text: str, file: str) -> TOMLDocument:
    try:
        return tomlkit.parse(text)
    except TOMLKitError as error:
        raise ConfigError([Fault(file, "(TOML)", "", f"{error}; mend the syntax there")]) from None


def party_text(
    *,
    federation: str,
    party: str,
    secret_key: str,
    data_id: str,
    train: str,
    validation: str,
    test: str,
    reference: str | None = None,
    consent_to: str | None = None,
    bind: str | None = None,
    threads: int = 1,
    acceptance: bool = False,
    budget: tuple[float, float] | None = None,
    federated: tuple[float, float] | None = None,
) -> str:
    """A party.toml with every setting that a beginner may want to change.

    Args:
        budget: (ε, δ) of the data set; None under privacy mode "none".
        federated: learning rate and momentum of noised steps; None where there are none.
    """
    listening = (
        "# Where to listen, where it differs from the address in the agreement.\n"
        f"bind = {_toml(bind)}\n"
        if bind
        else '# bind = "tcp://0.0.0.0:7001"  # where to listen, if not at the agreed address\n'
    )
    return _PARTY.format(
        federation=_toml(federation),
        party=_toml(party),
        secret_key=_toml(secret_key),
        bind=listening,
        id=_toml(data_id),
        sources='"folder:PATH" (one folder a class), "npz:PATH", "package.module:function", ...',
        train=_toml(train),
        validation=_toml(validation),
        test=_toml(test),
        reference=""
        if reference is None
        else f"# Unlabelled, and the same at every party.\nreference = {_toml(reference)}\n",
        threads=_toml(threads),
        budget=""
        if budget is None
        else _BUDGET.format(epsilon=_toml(budget[0]), delta=_toml(budget[1])),
        training=""
        if federated is None
        else "# Of the personal model and of the one trained alone; nothing of them is sent.\n",
        federated=""
        if federated is None
        else _FEDERATED.format(lr=_toml(federated[0]), momentum=_toml(federated[1])),
        acceptance=_toml(acceptance),
        fusion="" if consent_to is None else _CONSENT.format(method=consent_to),
    )


def write_new(path: Path, text: str) -> None:
    """Writes a file that must not exist yet.

    Raises:
        ConfigError: it exists, or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        cure = "is there already and is not overwritten; choose another folder"
        raise ConfigError([Fault(str(path), "(file)", "", cure)]) from None
    except OSError as error:
        cure = f"cannot be written: {error.strerror}"
        raise ConfigError([Fault(str(path), "(file)", "", cure)]) from None


def _toml(value: Any) -> str:
    """One value on one line, as TOML writes it."""
    return _inline(value).as_string()


def _inline(value: Any) -> Item:
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, inner in value.items():
            table.append(key, _inline(inner))
        return table
    if isinstance(value, list | tuple):
        array = tomlkit.array()
        for inner in value:
            array.append(_inline(inner))
        return array
    item: Item = tomlkit.item(value)
    return item
