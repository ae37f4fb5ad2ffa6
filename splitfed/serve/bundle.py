"""The bundle: a finished model in the run folder, with all that is needed to use it.

``model.safetensors`` holds the kept model, ``members.safetensors`` (if there is one) the
others, each tensor as ``<member>/<name>``, and ``model.json`` what they are. The last is
written last and holds the digests of the others, so that a bundle whose writing was cut
short is noticed when it is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blake3
import msgspec
import torch
from safetensors import SafetensorError
from torch import nn

from splitfed.config import digest_of
from splitfed.data import Preprocessing
from splitfed.errors import Defect, FolderError, ModelError, UserError
from splitfed.models import initialise
from splitfed.reading import read_plain
from splitfed.serve.facts import (
    FACTS,
    KEPT,
    KEPT_FILE,
    LARGEST,
    MEMBERS_FILE,
    RUN_AGAIN,
    SCHEMA,
    Facts,
    decode,
)
from splitfed.serve.trust import is_own
from splitfed.sharing import load_tensors, split_model
from splitfed.store import RunFolder
from splitfed.store.checkpoints import Specs, file_digest, load, specs_of
from splitfed.tensors import Tensors, all_finite
from splitfed.types import TensorSpec

DAMAGED = "restore it from a backup, or " + RUN_AGAIN


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A bundle that was read and checked.

    Attributes:
        path: the run folder.
        facts: what stands in ``model.json``.
        preprocessing: from a picture to the model's input.
        models: by the name of each model, the modules whose probabilities it averages, in
            evaluation mode. Equal members of two models are one module.
        digest: BLAKE3 of ``model.json``, 64 hex digits. It covers the tensors, whose digests
            stand in that file.
    """

    path: Path
    facts: Facts
    preprocessing: Preprocessing
    models: Mapping[str, tuple[nn.Module, ...]]
    digest: str


def write_bundle(
    folder: RunFolder,
    facts: Mapping[str, Any],
    kept: Mapping[str, torch.Tensor],
    members: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
) -> None:
    """Write the bundle into a run folder, over one that is there.

    Args:
        folder: open, held by this process.
        facts: the keys of :class:`~splitfed.serve.facts.Facts` without ``schema`` and
            ``digests``, which are filled in here, as ``software`` is where it is missing.
            Further keys are written as they are.
        kept: the tensors of member "kept" by canonical name, without tied aliases.
        members: the same of the other members: "partial", "local_only", "fused" or
            "peer:<party>". Each must be named by one of the ``models``.

    Raises:
        Defect: facts of the wrong form, or models and members that do not fit each other.
        FolderError: the disk is full. What is there then is noticed by :func:`read_bundle`
            to be of two parts, unless nothing of it was replaced yet.
    """
    others = dict(members or {})
    files: list[tuple[str, Mapping[str, torch.Tensor]]] = [(KEPT_FILE, kept)]
    if others:
        named = {f"{who}/{name}": t for who, part in others.items() for name, t in part.items()}
        files.append((MEMBERS_FILE, named))
    whole = {"software": _software(), **facts, "schema": SCHEMA}
    _refuse_misfits({**whole, "digests": {name: "" for name, _ in files}}, others)
    digests = {name: folder.write_tensors(name, tensors).hex() for name, tensors in files}
    body = {**whole, "digests": digests}
    folder.write_json(FACTS, {**body, "digest": facts_digest(body)})
    if not others:
        # Only now: until model.json was replaced, the old one still asked for this file.
        (folder.path / MEMBERS_FILE).unlink(missing_ok=True)


def read_bundle(path: Path | str, code: Path | str | None = None) -> Bundle:
    """Read and check the bundle in a run folder, and build its models.

    Building runs the code that ``factory`` names, of packages that are installed here or of the
    folder ``code``; a bundle brings no code of its own. Before that, every file has been compared
    with its digest, and no tensor is read that the models do not have. Nothing is unpickled and
    nothing is sent.

    Args:
        path: the run folder.
        code: where factories are searched besides installed packages. Without it, the folder
            that the bundle names serves where the run folder lies right below it, as a run of
            one's own does; see :func:`splitfed.serve.trust.is_own`.

    Raises:
        FolderError: a file is missing, unreadable, too large, damaged, of another schema, or
            was changed; a tensor is missing, extra or not finite. File and tensor are named.
        ModelError: the model cannot be built, or its tensors are others than the file's.
    """
    path = Path(path)
    text = _read_facts(path)
    facts = decode(path / FACTS, text)
    _check_facts(path, text)
    for name in (KEPT_FILE, MEMBERS_FILE):
        if name in facts.digests:
            _check_digest(path, name, facts)
    stored = _stored(path, facts)
    misfit = _misfit(facts, stored)
    if misfit:
        raise FolderError(f"{path / FACTS}: {misfit}", DAMAGED)
    try:
        pictures = facts.preprocessing
        preprocessing = Preprocessing(
            channels=pictures.channels,
            size=pictures.size,
            mean=tuple(pictures.mean),
            std=tuple(pictures.std),
        )
    except UserError as error:
        raise FolderError(f"{path / FACTS}: {error.message}", RUN_AGAIN) from None
    where = None if code is None else Path(code)
    modules = {
        name: _module(path, facts, name, specs, where)
        for name, specs in ({KEPT: _specs(path / KEPT_FILE)} | stored).items()
    }
    _fill(path, modules)
    return Bundle(
        path=path,
        facts=facts,
        preprocessing=preprocessing,
        models={
            model: tuple(modules[facts.member(name, stored)] for name in names)
            for model, names in facts.models.items()
        },
        digest=blake3.blake3(text).hexdigest(),
    )


# --- writing ---------------------------------------------------------------------------------


def _software() -> dict[str, str]:
    from splitfed import __version__

    return {"splitfed": __version__, "torch": str(torch.__version__)}


def _refuse_misfits(whole: dict[str, Any], others: Mapping[str, Any]) -> None:
    try:
        facts = msgspec.convert(whole, Facts)
    except msgspec.ValidationError as error:
        raise Defect(f"the bundle's facts are no model.json: {error}") from None
    misfit = _misfit(facts, others)
    if misfit:
        raise Defect(f"the bundle's facts and members: {misfit}")


def _misfit(facts: Facts, stored: Mapping[str, Any]) -> str:
    """How models and members fail to fit each other, or ""."""
    used = set()
    for model, names in facts.models.items():
        for name in names:
            try:
                used.add(facts.member(name, stored))
            except KeyError:
                return f"model {model!r} names member {name!r}, which is in no file"
    for name in sorted({*stored, KEPT} - used):
        return f"member {name!r} belongs to no model"
    return ""


# --- reading ---------------------------------------------------------------------------------


def check_files(path: Path | str) -> None:
    """Make sure that a bundle is whole, without building its models or running its code.

    Raises:
        FolderError: a file is missing, damaged, changed, or of another schema; it is named.
    """
    path = Path(path)
    text = _read_facts(path)
    facts = decode(path / FACTS, text)
    _check_facts(path, text)
    for name in facts.digests:
        _check_digest(path, name, facts)


def _read_facts(path: Path) -> bytes:
    file = path / FACTS
    try:
        return read_plain(file, LARGEST)
    except OSError as error:
        runs = sorted(file.parent.glob("runs/*/model.json"))
        near = f"; did you mean {runs[0].parent}?" if runs else ", such as runs/hospital-a"
        what = "there is no such folder" if not path.exists() else f"{error.strerror}"
        raise FolderError(
            f"{file} cannot be read: {what}", f"give the run folder of a finished run{near}"
        ) from None


def facts_digest(body: Mapping[str, Any]) -> str:
    """BLAKE3 of ``model.json`` without its own ``digest``, 64 hex digits: of the values, not of
    how they are laid out."""
    return digest_of("bundle", dict(body)).hex()


def _check_facts(path: Path, text: bytes) -> None:
    """A class name or a mean that was changed would give wrong answers without a word."""
    try:
        body = json.loads(text)
        sound = body.pop("digest", None) == facts_digest(body)
    except (ValueError, RecursionError):  # in a key that nothing reads
        sound = False
    if not sound:
        raise FolderError(
            f"{path / FACTS} is damaged or was changed: its values do not have the digest that "
            "stands in it",
            DAMAGED,
        )


def _check_digest(path: Path, name: str, facts: Facts) -> Path:
    file = path / name
    found = file_digest(file)
    if found is None:
        raise FolderError(f"{file} is missing, {FACTS} names it", DAMAGED)
    if found.hex() != facts.digests[name]:
        raise FolderError(
            f"{file} is damaged or was changed: its digest is {found.hex()[:16]}…, "
            f"{FACTS} says {facts.digests[name][:16]}…",
            DAMAGED,
        )
    return file


def _specs(file: Path) -> Specs:
    """Names, shapes and types of a file's tensors, of which none is read yet."""
    try:
        return specs_of(file)
    except (SafetensorError, ValueError) as error:
        raise FolderError(f"{file} is no safetensors file: {error}", DAMAGED) from None


def _stored(path: Path, facts: Facts) -> dict[str, Specs]:
    """The same of the members beside the kept one, each without its prefix."""
    stored: dict[str, Specs] = {}
    file = path / MEMBERS_FILE
    for name, spec in (_specs(file) if MEMBERS_FILE in facts.digests else {}).items():
        member, slash, rest = name.partition("/")
        if not slash:
            raise FolderError(f"{file}: tensor {name} has no member", DAMAGED)
        stored.setdefault(member, {})[rest] = TensorSpec(rest, spec.shape, spec.dtype)
    return stored


def _fill(path: Path, modules: Mapping[str, nn.Module]) -> None:
    """Give the modules their values. They have been compared with the files: no more is read
    into memory than the models hold."""
    kept, _ = load(path / KEPT_FILE)
    unfit = all_finite(kept)
    if unfit is not None:
        raise FolderError(f"{path / KEPT_FILE}: tensor {unfit} holds NaN or infinity", RUN_AGAIN)
    values: dict[str, Tensors] = {KEPT: kept}
    if len(modules) > 1:
        for name, tensor in load(path / MEMBERS_FILE)[0].items():
            member, _, rest = name.partition("/")
            values.setdefault(member, {})[rest] = tensor
    for name, module in modules.items():
        load_tensors(module, values[name])
        module.requires_grad_(False).eval()


def _module(path: Path, facts: Facts, member: str, found: Specs, code: Path | None) -> nn.Module:
    """The member as its recipe builds it, which must have exactly the tensors of the file."""
    recipe = facts.recipe(member)
    named = None if facts.code is None else Path(facts.code)
    if code is None and named is not None and is_own(path, named):
        code = named
    try:
        module = initialise(recipe.factory, recipe.arguments, facts.seed, folder=code)
        specs = split_model(module, "*").shared  # all of them, tied aliases left out
    except UserError as error:
        cure = error.cure
        if code is None and named is not None:
            cure += (
                f"; {named}, where the bundle says that its code lies, was not searched: if you "
                "trust the code there, give the folder with --code"
            )
        raise ModelError(f"{path / FACTS}: {error.message}", cure) from None
    file = path / (KEPT_FILE if member == KEPT else MEMBERS_FILE)
    _compare(file, "" if member == KEPT else f"{member}/", recipe.factory, specs, found)
    return module


def _compare(
    file: Path, prefix: str, factory: str, specs: tuple[TensorSpec, ...], read: Specs
) -> None:
    cure = "use the model's code and arguments that the run had, or " + RUN_AGAIN
    found = dict(read)
    for spec in specs:
        have = found.pop(spec.name, None)
        if have is None:
            raise ModelError(f"{file}: tensor {prefix}{spec.name} of {factory} is missing", cure)
        if have != spec:
            raise ModelError(
                f"{file}: tensor {prefix}{spec.name} is {have.dtype} {list(have.shape)}, "
                f"{factory} has {spec.dtype} {list(spec.shape)}",
                cure,
            )
    for name in sorted(found):
        raise ModelError(f"{file}: tensor {prefix}{name} is not one of {factory}", cure)
