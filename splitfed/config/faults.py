"""From pydantic's errors to faults that a reader of the TOML file can act on.

Every field of the two files carries a ``description`` that says what would be right; it is
the cure of any fault of that field, so the text exists once.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model, model_validator
from pydantic_core import ErrorDetails

from splitfed.errors import ConfigError, Fault

SHOWN = 80
"""Characters of a value that a fault shows before it is cut."""


_ACROSS = "_across_keys"


class Finding(NamedTuple):
    """One contradiction inside a section: key relative to it, value found, what is right."""

    key: str
    value: Any
    cure: str


class ContradictionError(ValueError):
    """What a section's cross checks found; carries each finding through pydantic."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        super().__init__("; ".join(f"{f.key} = {shown(f.value)}: {f.cure}" for f in self.findings))


Check = Callable[[Any], Iterator[Finding]]


def across(*keys: str) -> Callable[[Check], Check]:
    """Marks a section's method as a check across ``keys`` (dotted into inner tables).

    It runs whenever those keys are right by themselves, whatever else is wrong in the
    file, so that one reading reports everything.
    """

    def mark(check: Check) -> Check:
        setattr(check, _ACROSS, keys)
        return check

    return mark


def only(*built: Any, because: str = "is not built yet in this version") -> Callable[[Any], Any]:
    """A field validator that refuses all but ``built`` values of a known setting."""

    def check(value: Any) -> Any:
        if value not in built:
            uses = [shown(item) for item in built if item is not None]
            cure = f"{because}; use {' or '.join(uses)}" if uses else f"{because}; drop it"
            raise ContradictionError([Finding("", value, cure)])
        return value

    return check


class Section(BaseModel):
    """Base of every table of the two files: strict types, no unknown keys, immutable."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    @model_validator(mode="after")
    def _no_contradictions(self) -> Section:
        if findings := tuple(contradictions(self)):
            raise ContradictionError(findings)
        return self


def contradictions(section: Section, right: Container[str] | None = None) -> Iterator[Finding]:
    """What the section's checks across keys find; with ``right``, only on those keys."""
    for name in dir(type(section)):
        check = getattr(type(section), name, None)
        keys: tuple[str, ...] | None = getattr(check, _ACROSS, None)
        if keys is not None and (right is None or all(key in right for key in keys)):
            yield from cast(Check, check)(section)


S = TypeVar("S", bound=Section)


def parse(kind: type[S], data: Mapping[str, Any], file: str) -> S:
    """Validates ``data`` as one ``kind``; ``file`` names its source in the faults.

    Raises:
        ConfigError: with every fault found.
    """
    section, faults = checked(kind, data, file)
    if section is None:
        raise ConfigError(faults)
    return section


def checked(kind: type[S], data: Mapping[str, Any], file: str) -> tuple[S | None, list[Fault]]:
    """``data`` as one ``kind``, or None and every fault found in it."""
    try:
        return kind.model_validate(dict(data)), []
    except ValidationError as error:
        faults = [
            fault
            for detail in error.errors(include_url=False)
            for fault in _faults_of_one(detail, kind, file)
        ]
    # Pydantic skips the checks across keys of any table that has another fault.
    faults += [_fault(finding, "", file) for finding in _partial(kind, data).findings]
    return None, list(dict.fromkeys(faults))


class _Part(NamedTuple):
    """What is right of a faulty table: the section as far as it goes, and its right keys."""

    section: Any
    right: set[str]
    findings: list[Finding]


def _partial(kind: type[Section], data: Mapping[str, Any]) -> _Part:
    values: dict[str, Any] = {}
    right = {name for name in kind.model_fields if name not in data}
    right -= {name for name, field in kind.model_fields.items() if field.is_required()}
    findings: list[Finding] = []
    for name, field in kind.model_fields.items():
        raw = data.get(name)
        inner = _model_in(field.annotation)
        if inner is not None and isinstance(raw, dict) and _is_table_of(field.annotation):
            parts = {
                key: _partial(inner, entry if isinstance(entry, dict) else {})
                for key, entry in raw.items()
            }
            values[name] = {key: part.section for key, part in parts.items()}
            right.add(name)
            for key, part in parts.items():
                findings += _under(f"{name}.{key}", part.findings)
        elif inner is not None and isinstance(raw, dict):
            part = _partial(inner, raw)
            values[name] = part.section
            right |= {f"{name}.{key}" for key in part.right}
            findings += _under(name, part.findings)
        elif name in data:
            alone: Any = {name: (field.annotation, field)}
            single = create_model("Single", __base__=Section, **alone)
            try:
                values[name] = getattr(single.model_validate({name: raw}), name)
            except ValidationError:
                continue
            right.add(name)
    section = kind.model_construct(_fields_set=set(values), **values)
    return _Part(section, right, findings + list(contradictions(section, right)))


def _under(prefix: str, findings: Iterable[Finding]) -> list[Finding]:
    return [f._replace(key=f"{prefix}.{f.key}" if f.key else prefix) for f in findings]


def _is_table_of(annotation: Any) -> bool:
    """Whether an annotation is ``dict[str, Section]``, a table of named tables."""
    return get_origin(annotation) is dict


def _fault(finding: Finding, prefix: str, file: str) -> Fault:
    key = f"{prefix}.{finding.key}" if prefix and finding.key else prefix or finding.key
    value = "" if finding.value is None else shown(finding.value)
    return Fault(file, key, value, finding.cure)


def shown(value: Any) -> str:
    """``value`` about as it stands in the file, in one line, cut to a readable length."""
    try:
        text = json.dumps(value, ensure_ascii=True)
    except (TypeError, ValueError):
        text = ascii(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """``', did you mean "x"?'`` for the nearest choice, or nothing when none is near."""
    lowered = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(word.lower().replace("-", "_"), lowered, n=1, cutoff=0.6)
    return f", did you mean {shown(lowered[near[0]])}?" if near else ""


def _faults_of_one(detail: ErrorDetails, kind: type[Section], file: str) -> Iterator[Fault]:
    location = detail["loc"]
    key = dotted(location)
    kinds = _models_along(kind, location)
    match detail["type"]:
        case "extra_forbidden":
            yield Fault(file, key, shown(detail["input"]), _unknown(location, kind, kinds[-1]))
        case "missing":
            yield Fault(file, key, "", f"missing; should be {_described(kinds, location)}")
        case "value_error" if isinstance(detail["ctx"]["error"], ContradictionError):
            for finding in detail["ctx"]["error"].findings:
                yield _fault(finding, key, file)
        case _:
            cure = f"should be {_described(kinds, location) or detail['msg']}"
            yield Fault(file, key, shown(detail["input"]), cure)


def dotted(location: Sequence[str | int]) -> str:
    """``("parties", "a", "records")`` as ``parties.a.records``; list indices in brackets."""
    text = ""
    for part in location:
        if part == "[key]":
            continue
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def _models_along(kind: type[Section], location: Sequence[str | int]) -> list[type[Section]]:
    """The section classes that a location passes through, the outermost first."""
    kinds = [kind]
    for part in location[:-1]:
        inner = _field_model(kinds[-1], part)
        if inner is not None:
            kinds.append(inner)
    return kinds


def _field_model(kind: type[Section], name: str | int) -> type[Section] | None:
    field = kind.model_fields.get(str(name))
    return _model_in(field.annotation) if field is not None else None


def _model_in(annotation: Any) -> type[Section] | None:
    """The section class inside ``Section | None`` or ``dict[str, Section]``."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in get_args(annotation):
        if (found := _model_in(argument)) is not None:
            return found
    return None


def _described(kinds: Sequence[type[Section]], location: Sequence[str | int]) -> str:
    """The description of the innermost field that the location names."""
    for kind in reversed(kinds):
        for part in reversed(location):
            field = kind.model_fields.get(str(part))
            if field is not None and field.description:
                return field.description
    return ""


def _unknown(location: Sequence[str | int], root: type[Section], here: type[Section]) -> str:
    word = str(location[-1])
    near = did_you_mean(word, here.model_fields)
    if near:
        return f"unknown key{near}"
    for name, field in root.model_fields.items():
        inner = _model_in(field.annotation)
        if inner is not None and word in inner.model_fields and inner is not here:
            return f"unknown key here; it belongs in [{name}]"
    if here is not root and word in root.model_fields:
        return "unknown key here; it belongs at the top of the file, above the first [table]"
    known = ", ".join(here.model_fields)
    return f"unknown key; known here: {known}"
