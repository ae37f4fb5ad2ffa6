"""[parties] of federation.toml: each party's block, its keys and the keys it had before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from splitfed.config.faults import Finding, Section, across
from splitfed.config.privacy import Count
from splitfed.config.values import Address, Arguments, CurveKey, Factory, SigningKey
from splitfed.signatures import PartyKeys, rotation_message, verify_signature

MOST_RETIRED = 64
"""Retired keys of one party that an agreement may list."""

_HEX128 = re.compile(r"[0-9a-f]{128}")


def _statement(text: str) -> str:
    if _HEX128.fullmatch(text) is None:
        raise ValueError("is no hexadecimal signature")
    return text


class PartyModelConfig(Section):
    """What the others build a party's private part with, where it is not the agreed one."""

    factory: Factory = Field(
        description='"package.module:Class", such as "splitfed.models:ThreeLayerCNN"'
    )
    arguments: Arguments = Field(
        default_factory=dict, description="a table of the factory's keyword arguments"
    )


class RetiredKey(Section):
    """A pair of keys that a party had before, and why the next pair is the same party's."""

    public_key: CurveKey = Field(
        description="the CURVE public key that went with it, 40 characters"
    )
    signing_key: SigningKey = Field(description="the old Ed25519 public key, 64 hexadecimal digits")
    statement: Annotated[str, AfterValidator(_statement)] | None = Field(
        default=None,
        description="the old key's signature over the keys that follow it, 128 hexadecimal "
        "digits, as `splitfed keys rotate` wrote it",
    )
    revoked: Literal[True] | None = Field(
        default=None,
        description="true where the old key was lost or stolen: nothing that it signed counts; "
        "or left out",
    )

    @across("statement", "revoked")
    def one_reason(self) -> Iterator[Finding]:
        if (self.statement is None) == (self.revoked is None):
            found = None if self.statement is None else self.statement
            cure = (
                "should have either the old key's statement or revoked = true, as "
                "`splitfed keys rotate` writes it"
            )
            yield Finding("statement", found, cure)


class RosterEntry(Section):
    """One party as all others know it."""

    public_key: CurveKey = Field(
        description="the party's CURVE public key, 40 characters, as its `splitfed init` wrote it"
    )
    signing_key: SigningKey = Field(
        description="the party's Ed25519 public key, 64 hexadecimal digits, as its "
        "`splitfed init` wrote it"
    )
    retired: Annotated[tuple[RetiredKey, ...], Field(strict=False, max_length=MOST_RETIRED)] = (
        Field(
            default=(),
            description="a list of the keys that this party had before, the oldest first, as its "
            f"`splitfed keys rotate` wrote it; {MOST_RETIRED} at most",
        )
    )
    address: Address | None = Field(
        default=None,
        description="where the others can reach this party, such as "
        '"tcp://hospital-a.example:7001" (leave it out where nobody can)',
    )
    records: Count = Field(description="the public number of training records, a whole number >= 1")
    model: PartyModelConfig | None = Field(
        default=None,
        description="a table with factory and arguments: this party's own model, which the others "
        'must be able to build under [fusion] method = "ensemble"',
    )

    @property
    def keys(self) -> PartyKeys:
        """The party's signing keys, present and past."""
        return PartyKeys(
            present=self.signing_key,
            retired=tuple(key.signing_key for key in self.retired if not key.revoked),
            revoked=tuple(key.signing_key for key in self.retired if key.revoked),
        )

    def roster(self) -> dict[str, Any]:
        """The keys as all sides must have them; the list of retired ones only if there are any."""
        now = {"public_key": self.public_key, "signing_key": self.signing_key}
        before = [key.model_dump(mode="json", exclude_none=True) for key in self.retired]
        return {**now, "retired": before} if before else now


def differing(parties: Mapping[str, Any]) -> Iterator[Finding]:
    """Parties must differ in name (also as folders) and address, and no key stands twice,
    retired ones included. ``parties`` may hold entries that are right in part only."""
    for key in ("public_key", "signing_key", "address"):
        owners: dict[str, str] = {}
        for name, entry in sorted(parties.items()):
            value = getattr(entry, key, None)
            if value is not None and owners.setdefault(value, name) != name:
                cure = f"is also that of {owners[value]}; every party has its own"
                yield Finding(f"parties.{name}.{key}", value, cure)
        for name, entry in sorted(parties.items()):
            for number, old in enumerate(getattr(entry, "retired", ())):
                value, place = getattr(old, key, None), f"{name}, retired[{number}]"
                if value is not None and owners.setdefault(value, place) != place:
                    cure = f"is also that of {owners[value]}; a key that was retired is never back"
                    yield Finding(f"parties.{name}.retired[{number}].{key}", value, cure)
    folded: dict[str, str] = {}
    for name in sorted(parties):
        if folded.setdefault(name.lower(), name) != name:
            cure = f"differs from {folded[name.lower()]} in case only; choose another name"
            yield Finding(f"parties.{name}", None, cure)


def wrong_statements(parties: Mapping[str, Any]) -> Iterator[Finding]:
    """Statements that the retired key did not make about the pair of keys that follows it."""
    for name, entry in sorted(parties.items()):
        if not hasattr(entry, "public_key") or not hasattr(entry, "signing_key"):
            continue  # told by itself
        retired = getattr(entry, "retired", ())
        for number, (old, new) in enumerate(zip(retired, (*retired[1:], entry), strict=False)):
            if old.statement is None:
                continue
            message = rotation_message(
                party=name,
                public_key=old.public_key,
                signing_key=old.signing_key,
                new_public_key=new.public_key,
                new_signing_key=new.signing_key,
            )
            if not verify_signature(old.signing_key, message, bytes.fromhex(old.statement)):
                follower = f"retired[{number + 1}]" if new is not entry else "the present ones"
                cure = (
                    f"is not the signature of {old.signing_key[:8]}… over the keys of {name} that "
                    f"follow it ({follower}): take the block over anew from {name}, whose "
                    "`splitfed keys rotate` wrote it; change none of its keys by hand"
                )
                yield Finding(f"parties.{name}.retired[{number}].statement", old.statement, cure)
