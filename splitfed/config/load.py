"""Reading the two files: every fault of both at once, then one checked configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import blake3

from splitfed.config.aggregation import rule_findings
from splitfed.config.algorithm import ALGORITHMS
from splitfed.config.faults import checked, shown
from splitfed.config.federation import FederationConfig
from splitfed.config.fusion import METHODS, RELEASES_PRIVATE
from splitfed.config.party import DataConfig, PartyConfig, PartyFile, local_path
from splitfed.config.privacy import DP_SGD, MODES
from splitfed.config.toml import agreement_instead, read_toml
from splitfed.errors import ConfigError, Fault
from splitfed.reading import is_inside, open_plain

LARGEST_INITIAL = 64 << 30
"""Bytes of a file of initial tensors."""


def load_federation(path: str | Path) -> FederationConfig:
    """Reads and checks a federation.toml; one with a single party so far is accepted.

    Raises:
        ConfigError: with every fault of the file.
    """
    _, federation, faults = _read_federation(Path(path))
    if federation is None or faults:
        raise ConfigError(faults)
    return federation


def load_party(path: str | Path, *, consent: bool = True) -> PartyConfig:
    """Reads and checks a party.toml and the federation.toml that it names.

    Checks too what a run over the network needs: at least two parties, an address to dial for
    every pair, my name and my secret keys, data files that exist.

    Args:
        consent: whether a missing consent to releasing private layers is a fault; to look at
            what would be consented to, it is none.

    Raises:
        ConfigError: with every fault of both files.
    """
    path = Path(path).absolute()
    raw, faults = read_toml(path, "run `splitfed init` to make a party folder")
    if raw is None or (faults := agreement_instead(raw, str(path))):
        raise ConfigError(faults)
    file = str(path)
    own, own_faults = checked(PartyFile, raw, file)
    faults += own_faults

    folder = path.parent
    federation: FederationConfig | None = None
    agreement: dict[str, Any] = {}
    federation_path = folder / "federation.toml"
    if isinstance(raw.get("federation"), str) and raw["federation"]:
        federation_path = folder / raw["federation"]
        agreement, federation, theirs = _read_federation(federation_path)
        faults += theirs
        faults += _link_faults(agreement, str(federation_path))
        faults += _rule_faults(federation, str(federation_path))
    faults += _missing_files(raw, folder, file)
    faults += _between(raw, agreement, file, federation_path) if agreement else []
    faults += _consent(raw, agreement, file) if consent else []

    if own is None or federation is None or faults:
        raise ConfigError(faults)
    return PartyConfig(
        path=path,
        federation_path=federation_path,
        federation=federation,
        party=own.party,
        secret_key=folder / own.secret_key,
        link=own.link,
        data=own.data,
        training=own.training,
        model=own.model,
        fusion=own.fusion,
        defence=own.defence,
    )


def file_digest(path: Path) -> str:
    """BLAKE3 of a file's bytes, 64 hexadecimal digits."""
    hasher = blake3.blake3()
    with open_plain(path, LARGEST_INITIAL) as file:
        while piece := file.read(1 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def _read_federation(
    path: Path,
) -> tuple[dict[str, Any], FederationConfig | None, list[Fault]]:
    """The agreement as written, as checked (None where it has faults), and its faults."""
    raw, faults = read_toml(path, "ask the party that began the federation for its file")
    if raw is None:
        return {}, None, faults
    federation, faults = checked(FederationConfig, raw, str(path))
    if federation is None:
        return raw, None, faults
    return raw, *_with_initial(federation, path, faults)


def _with_initial(
    federation: FederationConfig, path: Path, faults: list[Fault]
) -> tuple[FederationConfig, list[Fault]]:
    """The federation with its initial tensors' file made absolute and its digest known."""
    initial = federation.model.initial
    if initial is None:
        return federation, faults
    home = path.absolute().parent
    file = home / initial.file
    written = Path(initial.file)
    if written.is_absolute() or ".." in written.parts or not is_inside(home, file):
        # Its digest becomes part of the contract, which the peer may read: whoever wrote the
        # agreement must not learn anything of another file on this machine.
        cure = f"leads out of {home}; put the file beside federation.toml and name it there"
        return federation, [*faults, Fault(str(path), "model.initial", shown(initial.file), cure)]
    if not os.path.isfile(file):  # also False for names that no file can have
        cure = f"no such file ({file}); it must be sent along with federation.toml"
        return federation, [*faults, Fault(str(path), "model.initial", shown(initial.file), cure)]
    try:
        digest = file_digest(file)
    except OSError as error:
        cure = f"cannot be read: {error.strerror}"
        return federation, [*faults, Fault(str(path), "model.initial", shown(initial.file), cure)]
    if initial.digest not in (None, digest):
        cure = f"the file's digest is {digest}: it is not the file that was agreed on"
        key = "model.initial.digest"
        return federation, [*faults, Fault(str(path), key, shown(initial.digest), cure)]
    known = initial.model_copy(update={"file": str(file), "digest": digest})
    model = federation.model.model_copy(update={"initial": known})
    return federation.model_copy(update={"model": model}), faults


def _link_faults(agreement: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """What a run over ZeroMQ needs of the agreement."""
    parties = _table(agreement, "parties")
    names = sorted(parties)
    if len(names) == 1:
        cure = (
            f"only {names[0]} so far; send this file to the next party for "
            "`splitfed init --join`, and put the file that comes back in its place"
        )
        yield Fault(file, "parties", "", cure)
    hidden = [name for name in names if not _table(parties, name).get("address")]
    if len(hidden) > 1:
        # Every pair has a link of its own, and one of the two dials the other.
        few = len(hidden) == 2
        cure = (
            f"missing, and so it is of {', '.join(hidden[1:])}: "
            f"{'neither' if few else 'none of them'} can dial the other{'' if few else 's'}; give "
            f"{'one of the two' if few else 'all of them but one'} an address that the others can "
            f'reach, such as address = "tcp://{hidden[0]}.example:7001"'
        )
        yield Fault(file, f"parties.{hidden[0]}.address", "", cure)


def _rule_faults(federation: FederationConfig | None, file: str) -> Iterator[Fault]:
    """What the agreed aggregation rule lacks, once more than the first party is there."""
    if federation is not None and len(federation.parties) > 1:
        for finding in rule_findings(federation.aggregation, federation.parties):
            yield Fault(file, finding.key, shown(finding.value), finding.cure)


def _table(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


def _missing_files(raw: Mapping[str, Any], folder: Path, file: str) -> Iterator[Fault]:
    """Files that party.toml names and that are not there."""
    secret = raw.get("secret_key")
    if isinstance(secret, str) and secret and not os.path.isfile(folder / secret):
        cure = f"no such file ({folder / secret}); `splitfed init` makes it, never copy another's"
        yield Fault(file, "secret_key", shown(secret), cure)
    data = _table(raw, "data")
    for key in DataConfig.model_fields:
        source = data.get(key)
        if not isinstance(source, str) or not (name := local_path(source)):
            continue
        place = folder / name
        if not os.path.exists(place):  # False too for a name that no file can have
            cure = f"no such file or folder ({place}); relative paths start at {folder}"
            yield Fault(file, f"data.{key}", shown(source), cure)
        elif source.startswith("folder:") and not os.path.isdir(place):
            yield Fault(file, f"data.{key}", shown(source), "is a file; folder: needs a folder")
        elif source.startswith("npz:") and not os.path.isfile(place):
            yield Fault(file, f"data.{key}", shown(source), "is a folder; npz: needs a file")


def _between(
    raw: Mapping[str, Any], agreement: Mapping[str, Any], file: str, federation_path: Path
) -> Iterator[Fault]:
    """Contradictions between my file and the agreement, both as written."""
    parties = _table(agreement, "parties")
    name = raw.get("party")
    if parties and isinstance(name, str) and name not in parties:
        known = ", ".join(sorted(parties))
        cure = (
            f"not one of the [parties] of {federation_path} ({known}): write your own name; or, if "
            "you joined later, that file is older: take the one that you completed"
        )
        yield Fault(file, "party", shown(name), cure)
    loss, classes = _table(raw, "training").get("loss", "cross_entropy"), agreement.get("classes")
    if loss == "cross_entropy" and classes == []:
        cure = 'the agreement has no classes (regression); use loss = "mse"'
        yield Fault(file, "training.loss", shown(loss), cure)
    if loss == "mse" and isinstance(classes, list) and classes:
        cure = f'the agreement has {len(classes)} classes; use loss = "cross_entropy"'
        yield Fault(file, "training.loss", shown(loss), cure)
    yield from _algorithm(raw, agreement, file)
    yield from _privacy(raw, agreement, file)
    yield from _fusion(raw, agreement, file)
    yield from _defence(raw, agreement, file)
    bind = _table(raw, "link").get("bind")
    dialed = (
        not isinstance(name, str) or name not in parties or _table(parties, name).get("address")
    )
    if bind and not dialed:
        cure = f"{name} has no address in the agreement, so nobody dials it; drop bind"
        yield Fault(file, "link.bind", shown(bind), cure)


def _algorithm(raw: Mapping[str, Any], agreement: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """Training keys that the agreed algorithm or privacy mode would never read."""
    training = _table(raw, "training")
    algorithm = agreement.get("algorithm", "fedper")
    if "head_epochs" in training and algorithm in ALGORITHMS and algorithm != "fedrep":
        cure = f'the agreed algorithm = "{algorithm}" trains no head apart ("fedrep" does); drop it'
        yield Fault(file, "training.head_epochs", shown(training["head_epochs"]), cure)
    mode = _table(agreement, "privacy").get("mode")
    if training.get("proximal") and mode in DP_SGD:
        cure = (
            f'contradicts the agreed [privacy] mode = "{mode}", whose noised steps know no such '
            "term; drop it"
        )
        yield Fault(file, "training.proximal", shown(training["proximal"]), cure)
    factory = _table(raw, "model").get("factory")
    if algorithm == "fedbabu" and factory is not None:
        cure = (
            'private layers that differ would pull the shared ones apart: algorithm = "fedbabu" '
            "trains those against private layers that stay as they are; drop it, or agree on "
            '"fedper"'
        )
        yield Fault(file, "model.factory", shown(factory), cure)


def _privacy(raw: Mapping[str, Any], agreement: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """What contradicts the agreed privacy mode."""
    mode = _table(agreement, "privacy").get("mode")
    budget = _table(raw, "data").get("budget_epsilon")
    if mode == "none" and budget is not None:
        cure = (
            'contradicts the agreed [privacy] mode = "none", under which what is sent is beyond '
            "any budget; drop it, or agree on a mode with noise"
        )
        yield Fault(file, "data.budget_epsilon", shown(budget), cure)
    if mode in MODES and mode not in DP_SGD and "federated" in _table(raw, "training"):
        cure = (
            f'contradicts the agreed [privacy] mode = "{mode}", which takes no noised steps; drop '
            "the table"
        )
        yield Fault(file, "training.federated", "", cure)
    head = _table(agreement, "model").get("public_head")
    factory = _table(raw, "model").get("factory")
    if mode == "dp-frozen" and factory is not None and head is None:
        cure = (
            "private layers that differ would freeze differently and pull the shared ones apart; "
            'agree on [model] public_head = "pool-linear", which all parties then share towards'
        )
        yield Fault(file, "model.factory", shown(factory), cure)


def _defence(raw: Mapping[str, Any], agreement: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """Leaving on distrust where nothing is judged while the federation goes on."""
    leave = _table(raw, "defence").get("on_distrust")
    if leave != "leave":
        return
    mode = _table(agreement, "privacy").get("mode")
    if mode in DP_SGD:
        cure = (
            f'under the agreed [privacy] mode = "{mode}" merges are judged once, after the last '
            'round, when nobody can leave any more; use "warn"'
        )
        yield Fault(file, "defence.on_distrust", shown(leave), cure)
    if agreement.get("classes") == []:
        cure = 'a regression (no classes) has no accuracy to judge by; use "warn"'
        yield Fault(file, "defence.on_distrust", shown(leave), cure)


def _fusion(raw: Mapping[str, Any], agreement: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """What the agreed fusion needs of this party, and what it does not read."""
    method = _table(agreement, "fusion").get("method", "none")
    if method not in METHODS:
        return  # told by itself
    own, reference = _table(raw, "fusion"), _table(raw, "data").get("reference")
    if method == "distill" and reference is None:
        cure = (
            'missing; the agreed [fusion] method = "distill" exchanges outputs on images that '
            'every party holds, such as "folder:reference"; labels are not read'
        )
        yield Fault(file, "data.reference", "", cure)
    elif method != "distill" and reference is not None:
        cure = f'is not read under the agreed [fusion] method = "{method}"; drop it'
        yield Fault(file, "data.reference", shown(reference), cure)
    consent = own.get("release_private")
    if method not in RELEASES_PRIVATE and consent:
        cure = f'nothing private leaves under the agreed method = "{method}"; drop it'
        yield Fault(file, "fusion.release_private", shown(consent), cure)
    if method != "distill":
        for key in sorted({"epochs", "weight"} & set(own)):
            cure = f'is not read under the agreed [fusion] method = "{method}"; drop it'
            yield Fault(file, f"fusion.{key}", shown(own[key]), cure)
    model = _table(raw, "model")
    if method == "average" and model:
        cure = (
            'private layers that differ cannot be averaged; agree on method = "distill" or '
            '"ensemble", or drop [model]'
        )
        yield Fault(file, "model.factory", shown(model.get("factory")), cure)
    if method == "ensemble":
        name = raw.get("party")
        entry = _table(_table(agreement, "parties"), name) if isinstance(name, str) else {}
        known = _table(entry, "model")
        for key, usual in (("factory", None), ("arguments", {})):
            mine, theirs = model.get(key, usual), known.get(key, usual)
            if mine != theirs:
                cure = (
                    f"the others must be able to build this model: write [parties.{name}.model] "
                    f"with {key} = {shown(mine)} into federation.toml on every side (now: "
                    f"{shown(theirs)}), or make both equal"
                )
                yield Fault(file, f"model.{key}", shown(mine), cure)


def _consent(raw: Mapping[str, Any], agreement: Mapping[str, Any], file: str) -> Iterator[Fault]:
    """Private layers leave only if this party says so itself."""
    method = _table(agreement, "fusion").get("method", "none")
    given = _table(raw, "fusion").get("release_private")
    if method in RELEASES_PRIVATE and given is not True:
        cure = (
            f'{"missing; " if given is None else ""}the agreed [fusion] method = "{method}" lets '
            "the private layers of every party leave, once (`splitfed plan` lists them): write "
            "[fusion] release_private = true if your institution consents, or agree on another "
            "method"
        )
        yield Fault(file, "fusion.release_private", "" if given is None else shown(given), cure)
