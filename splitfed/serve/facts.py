"""What stands in ``model.json``: everything that is needed to use a finished model, as text.

The file describes, it does not prove: its digests find damage and half-written bundles, but
whoever may write in the folder can write a bundle of their own.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from splitfed.errors import FolderError
from splitfed.serve.calibration import Calibration

SCHEMA = 2
FACTS, KEPT_FILE, MEMBERS_FILE = "model.json", "model.safetensors", "members.safetensors"
LARGEST = 16 << 20
"""Bytes of a ``model.json`` that are read at most."""

KEPT = "kept"
"""The member whose tensors are ``model.safetensors``."""

Model = Literal["partial", "local_only", "fused"]
RUN_AGAIN = "run `splitfed run` again: it writes the bundle anew from the run folder"

Count = Annotated[int, msgspec.Meta(ge=0)]


class Pictures(msgspec.Struct, kw_only=True, frozen=True):
    """How images become the model's inputs; see :class:`splitfed.data.Preprocessing`.

    Attributes:
        channels, size, mean, std: the agreement's; size is height and width in pixels.
        convert: the conversions that the spec of the training images declares, of "size" and
            "channels"; the same are made for a prediction, and no others.
        dtype: of the training images: "uint8" pixels, which are normalised, or "float32"
            values that were ready for the model.
    """

    channels: int
    size: tuple[int, int]
    mean: list[float]
    std: list[float]
    convert: list[Literal["size", "channels"]] = []
    dtype: Literal["uint8", "float32"] = "uint8"


class Recipe(msgspec.Struct, kw_only=True, frozen=True):
    """How a member is built that is built differently from the own model."""

    factory: str
    arguments: dict[str, Any] = {}


class Privacy(msgspec.Struct, kw_only=True, frozen=True):
    """The privacy mode under which the model came about, and what it promises."""

    mode: str
    sentence: str


class Facts(msgspec.Struct, kw_only=True, frozen=True):
    """``model.json``. Keys that are not listed here are kept in the file and not read.

    Attributes:
        schema: 2.
        party, peers: who made it, with whom.
        contract: digest of the agreement, hex; ``agreement`` is its text.
        rounds: that were agreed.
        classes: names in the order of the outputs; empty for a regression.
        seed: the agreement's.
        factory, arguments: how the own model is built.
        code: absolute folder where ``factory`` is searched besides installed packages.
        members: recipes of members that are built differently from the own model.
        preprocessing: from a picture to the model's input.
        kept: the model that answers; a key of ``models``.
        models: the members whose probabilities each model averages. Member "kept" is
            ``model.safetensors``; the kept model's own name says the same where no member of
            that name lies in ``members.safetensors``.
        calibration: of the kept model; None where it was not measured.
        verdict: did federating help, as in report.json; None where it was not measured.
        privacy: mode and sentence, as in report.json.
        reference: what the models were fused on; None where nothing was.
        digests: BLAKE3 of each tensor file, hex.
        software: versions it was written with.
    """

    schema: int
    party: str
    peers: list[str]
    contract: str
    agreement: str
    rounds: Count
    classes: list[str]
    seed: int
    factory: str
    arguments: dict[str, Any]
    code: str | None = None
    members: dict[str, Recipe] = {}
    preprocessing: Pictures
    kept: Model
    models: dict[Model, Annotated[list[str], msgspec.Meta(min_length=1)]]
    calibration: Calibration | None = None
    verdict: dict[str, Any] | None = None
    privacy: Privacy
    reference: dict[str, Any] | None = None
    digests: dict[str, str]
    software: dict[str, str] = {}

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec turns into its own error with the place."""
        if self.kept not in self.models:
            raise ValueError(f"kept = {self.kept!r} is none of models")
        if KEPT_FILE not in self.digests:
            raise ValueError(f"digests: {KEPT_FILE} is missing")
        for name in self.digests:
            if name not in (KEPT_FILE, MEMBERS_FILE):
                raise ValueError(f"digests: {name!r} is no file of a bundle")
        if self.code is not None and not Path(self.code).is_absolute():
            raise ValueError(f"code = {self.code!r} is no absolute folder")
        numbers = (*self.preprocessing.mean, *self.preprocessing.std)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("preprocessing: mean and std must be finite")

    def member(self, name: str, stored: Collection[str]) -> str:
        """Where the member ``name`` of a model lies: one of ``stored`` or :data:`KEPT`.

        Args:
            stored: the members in ``members.safetensors``.

        Raises:
            KeyError: in neither file.
        """
        if name in stored:
            return name
        if name in (KEPT, self.kept):
            return KEPT
        raise KeyError(name)

    def recipe(self, member: str) -> Recipe:
        """How a member is built."""
        own = Recipe(factory=self.factory, arguments=self.arguments)
        return self.members.get(member, own)


def decode(file: Path, text: bytes) -> Facts:
    """The facts in the bytes of ``file``.

    Raises:
        FolderError: no JSON, another schema, or a value of the wrong type; the key is named.
    """
    try:
        version = msgspec.json.decode(text, type=_Version).schema
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise FolderError(f"{file} is damaged or no bundle: {error}", RUN_AGAIN) from None
    if version < SCHEMA:
        raise FolderError(
            f"{file} has schema {version}, of an older splitfed; this one reads {SCHEMA}",
            "run `splitfed run` again with this splitfed: it writes the bundle anew",
        )
    if version > SCHEMA:
        raise FolderError(
            f"{file} has schema {version}, of a newer splitfed; this one reads {SCHEMA}",
            "install the splitfed that wrote it",
        )
    try:
        return msgspec.json.decode(text, type=Facts)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise FolderError(f"{file} is damaged: {error}", RUN_AGAIN) from None


class _Version(msgspec.Struct):
    schema: int
