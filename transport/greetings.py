"""What two greetings say about each other. Pure functions."""

from __future__ import annotations

import json
from typing import Any, Literal

import blake3
import msgspec

from splitfed.differences import differences
from splitfed.errors import ContractMismatch, Difference
from splitfed.transport.events import Greeting

Mismatch = Literal["version", "contract", "initial"]
_SESSION_DOMAIN = b"splitfed session v1\0"
_CURES = {
    "version": "install the same version of splitfed on both sides",
    "contract": "",
    "initial": "the same agreement built other starting weights: install the same versions "
    "of torch and splitfed on both sides, or agree on a file ([model] initial)",
}


def session_name(
    *, dialer: bytes, listener: bytes, nonces: tuple[bytes, bytes], contract: bytes
) -> bytes:
    """The 16 bytes that frame one session: BLAKE3 of both nonces and keys (the dialer's
    first) and the contract."""
    body = msgspec.msgpack.encode((*nonces, dialer, listener, contract))
    return blake3.blake3(_SESSION_DOMAIN + body).digest()[:16]


def negotiate(mine: tuple[int, int], theirs: tuple[int, int]) -> int | None:
    """The newest protocol version that both speak, or None."""
    newest = min(mine[1], theirs[1])
    return newest if newest >= max(mine[0], theirs[0]) else None


def mismatch(mine: Greeting, theirs: Greeting) -> Mismatch | None:
    """Why these two cannot work together, the gravest reason first; None if they can."""
    if negotiate(mine.versions, theirs.versions) is None:
        return "version"
    if (mine.contract, mine.roster) != (theirs.contract, theirs.roster):
        return "contract"
    if mine.initial != theirs.initial:
        return "initial"
    return None


def succeeds(theirs: Greeting, held: Greeting | None) -> bool:
    """May a newcomer take over from the process that holds the session?"""
    return held is None or (theirs.folder == held.folder and theirs.boot >= held.boot)


def addressed(greeting: Greeting, reader: str, *, documents: bool = False) -> Greeting:
    """The greeting as it travels to ``reader``: of the votes and ledger entries we hold only
    its own, the agreement's documents only where they differ."""
    return msgspec.structs.replace(
        greeting,
        votes_held={p: vote for p, vote in greeting.votes_held.items() if p == reader},
        entries_held={p: held for p, held in greeting.entries_held.items() if p == reader},
        contract_document=greeting.contract_document if documents else "",
        roster_document=greeting.roster_document if documents else "",
    )


def mismatch_error(
    peer: str, reason: Mismatch, mine: Greeting, theirs: Greeting
) -> ContractMismatch:
    """The error that shows both sides. ``theirs`` carries the documents where we have them."""
    rows: tuple[Difference, ...]
    if reason == "version":
        rows = (
            _row("splitfed protocol", _versions(mine), _versions(theirs)),
            *_software(mine, theirs),
        )
    elif reason == "initial":
        rows = (
            _row("initial shared tensors", mine.initial.hex()[:16], theirs.initial.hex()[:16]),
            *_software(mine, theirs),
        )
    else:
        rows = _documents(mine, theirs)
    cure = _CURES[reason]
    if rows and all(row.key.startswith("fusion.reference.") for row in rows):
        cure = (
            "the two sides' [data] reference hold different images: compare the files that "
            "party.toml names on each side; all parties need the same images in the same order"
        )
    return ContractMismatch(peer, rows, cure)


def _documents(mine: Greeting, theirs: Greeting) -> tuple[Difference, ...]:
    rows: list[Difference] = []
    if mine.contract != theirs.contract:
        found = differences(_read(mine.contract_document), _read(theirs.contract_document))
        if not theirs.contract_document or not found:
            found = (_row("contract", mine.contract.hex()[:16], theirs.contract.hex()[:16]),)
        rows.extend(found)
    if mine.roster != theirs.roster:
        found = differences(
            {"parties": _read(mine.roster_document)}, {"parties": _read(theirs.roster_document)}
        )
        if not theirs.roster_document or not found:
            found = (_row("parties (keys)", mine.roster.hex()[:16], theirs.roster.hex()[:16]),)
        rows.extend(found)
    return tuple(rows)


def _read(document: str) -> dict[str, Any]:
    """The document as a mapping; empty if a stranger wrote something else."""
    try:
        value = json.loads(document)
        json.dumps(value)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _software(mine: Greeting, theirs: Greeting) -> tuple[Difference, ...]:
    """Every software version that either side names, equal ones too: they are evidence."""
    names = sorted(mine.software.keys() | theirs.software.keys())
    return tuple(
        _row(name, mine.software.get(name, "?"), theirs.software.get(name, "?")) for name in names
    )


def _versions(greeting: Greeting) -> str:
    low, high = greeting.versions
    return f"{low}" if low == high else f"{low} to {high}"


def _row(key: str, mine: str, theirs: str) -> Difference:
    """A row whose texts may come from a stranger: control characters are made visible."""
    return Difference(*(json.dumps(text)[1:-1] for text in (key, mine, theirs)))
