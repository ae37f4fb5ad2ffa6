"""What a source is asked for: a spec of party.toml taken apart, and the agreement around it.

A spec is ``KIND:LOCATION`` with options after a question mark, ``KEY=VALUE`` joined by ``&``:
``folder:scans/train?convert=size``. ``digits`` has no location: ``digits:party=0&parties=2``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from splitfed.data.preprocessing import CONVERSIONS, Fitting, Preprocessing
from splitfed.errors import DataError

Part = Literal["train", "validation", "test", "reference"]
PARTS = ("train", "validation", "test", "reference")
KINDS = ("digits", "folder", "npz", "torchvision")

_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One set of images that is wanted.

    Attributes:
        spec: as it stands in party.toml, for messages.
        kind: one of :data:`KINDS`, or "function".
        location: what stands between the kind and the question mark.
        query: the options of the spec.
        options: ``[data] options`` of party.toml: for what the spec leaves open.
        preprocessing: the agreement's.
        classes: the agreement's, in its order; empty for a regression.
        part: what the set is for. A reference set is read without labels.
        root: folder of party.toml, for relative paths.
    """

    spec: str
    kind: str
    location: str
    query: Mapping[str, str]
    options: Mapping[str, Any]
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    part: Part
    root: Path

    @property
    def labelled(self) -> bool:
        """Whether labels are wanted."""
        return self.part != "reference"

    @property
    def path(self) -> Path:
        """The location as a path, relative to party.toml's folder.

        Raises:
            DataError: the location is empty.
        """
        if not self.location:
            raise DataError(f"{self.spec!r} names no path", f"write {self.kind}:PATH")
        return self.root / Path(self.location).expanduser()

    @property
    def fitting(self) -> Fitting:
        """How pictures are made to fit the agreement.

        Raises:
            DataError: ``convert`` names an unknown conversion.
        """
        text = self.text("convert", "")
        convert = frozenset(part for part in text.split(",") if part)
        for name in sorted(convert - set(CONVERSIONS)):
            raise DataError(
                f"{self.spec!r}: convert = {name!r}", f"choose from: {', '.join(CONVERSIONS)}"
            )
        return Fitting(preprocessing=self.preprocessing, convert=convert, spec=self.spec)

    def text(self, key: str, default: str) -> str:
        """The option ``key`` as text: the spec's, else party.toml's, else ``default``."""
        return str(self.query.get(key, self.options.get(key, default)))

    def number(self, key: str, default: int | None) -> int | None:
        """The option ``key`` as a whole number.

        Raises:
            DataError: it is none.
        """
        text = self.text(key, "")
        if not text:
            return default
        try:
            return int(text)
        except ValueError:
            raise DataError(f"{self.spec!r}: {key} = {text!r}", "give a whole number") from None

    def switch(self, key: str) -> bool:
        """The option ``key`` as yes or no; no by default.

        Raises:
            DataError: it is neither.
        """
        text = self.text(key, "no").lower()
        if text not in _YES + _NO:
            raise DataError(f"{self.spec!r}: {key} = {text!r}", "write yes or no")
        return text in _YES

    def choice(self, key: str, allowed: Collection[str], default: str) -> str:
        """The option ``key`` as one of the ``allowed`` words.

        Raises:
            DataError: it is another one.
        """
        text = self.text(key, default)
        if text not in allowed:
            raise DataError(
                f"{self.spec!r}: {key} = {text!r}" if text else f"{self.spec!r}: {key} is missing",
                f"add {key}= with one of: {', '.join(allowed)}",
            )
        return text

    def check_keys(self, known: Collection[str], elsewhere: Collection[str]) -> None:
        """Refuse options that nobody reads: ``known`` are this source's, ``elsewhere`` those
        of all sources, since ``[data] options`` serves several specs.

        Raises:
            DataError: naming the option, with the nearest known one.
        """
        for key in self.query:
            if key not in known:
                raise DataError(f"{self.spec!r}: unknown option {key!r}", _nearest(key, known))
        for key in self.options:
            if key not in elsewhere:
                raise DataError(f"[data] options: unknown option {key!r}", _nearest(key, elsewhere))


def parse(
    spec: str,
    *,
    preprocessing: Preprocessing,
    classes: tuple[str, ...],
    part: Part,
    root: Path,
    options: Mapping[str, Any],
) -> Request:
    """Take a spec apart.

    Raises:
        DataError: no colon, an option without ``=``, an option given twice, or ``part``
            among the options for all specs.
    """
    if part not in PARTS:
        raise DataError(f"part = {part!r}", f"choose one of: {', '.join(PARTS)}")
    if "part" in options:
        raise DataError(
            f"[data] options: part = {options['part']!r} would make one part serve as all of them",
            "name it in each spec",
        )
    head, colon, rest = spec.partition(":")
    if not colon and head != "digits":
        raise DataError(
            f"data source {spec!r} has no colon",
            "write digits:…, folder:PATH, npz:PATH, torchvision:NAME or package.module:function",
        )
    if head == "digits":
        location, text = "", rest.removeprefix("?")
    else:
        location, _, text = rest.partition("?")
    query: dict[str, str] = {}
    for item in filter(None, text.split("&")):
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise DataError(f"{spec!r}: option {item!r}", "write KEY=VALUE")
        if key in query:
            raise DataError(f"{spec!r}: option {key!r} stands twice", "keep one of them")
        query[key] = value
    return Request(
        spec=spec,
        kind=head if head in KINDS else "function",
        location=location if head in KINDS else f"{head}:{location}",
        query=query,
        options=options,
        preprocessing=preprocessing,
        classes=tuple(classes),
        part=part,
        root=root,
    )


def _nearest(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are: {', '.join(sorted(known))}"
