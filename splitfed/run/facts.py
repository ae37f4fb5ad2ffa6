"""What one reading of a run folder holds, for checking it: see :mod:`splitfed.run.verifying`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from splitfed.config import FederationConfig
from splitfed.errors import LedgerTampered, ProtocolViolation
from splitfed.rounds.statements import decode_statement
from splitfed.rounds.vote import Vote, decode_vote
from splitfed.signatures import PartyKeys
from splitfed.store import (
    Closed,
    FolderView,
    InputRow,
    LedgerEntry,
    RunFolder,
    ViewRow,
    VoteRow,
    Witnessed,
)
from splitfed.transport.events import Offer


@dataclass(frozen=True, kw_only=True)
class Facts:
    """One run folder at one moment.

    Attributes:
        path: the folder.
        party: whose it is.
        run: the federation run, or None before the first contact.
        peers: the other parties.
        keys: each party's signing keys.
        document: the agreement that it follows.
        rows: its ledger; None where it cannot be read.
        witnessed: entries of peers' ledgers; None where they cannot be read.
        closed, inputs, votes: of all its rounds.
        views: those that were made while it was a member, beside view 0, which is all parties.
        statements: those that it still keeps.
        quarantined: peers that broke the rules, with the reason.
        faults: what could not be read, or the chain itself.
    """

    path: Path
    party: str
    run: bytes | None
    peers: tuple[str, ...]
    keys: Mapping[str, PartyKeys]
    document: Mapping[str, Any]
    rows: tuple[LedgerEntry, ...] | None
    witnessed: tuple[Witnessed, ...] | None
    closed: tuple[Closed, ...]
    inputs: tuple[InputRow, ...]
    votes: tuple[VoteRow, ...]
    views: tuple[ViewRow, ...] = field(default=())
    statements: tuple[VoteRow, ...] = field(default=())
    quarantined: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = field(default=())

    @property
    def parties(self) -> tuple[str, ...]:
        """All of them, this one first."""
        return self.party, *self.peers

    @property
    def dynamic(self) -> bool:
        """Whether there can be views beside that of all parties."""
        return len(self.parties) > 2

    def members(self, view: int) -> tuple[str, ...] | None:
        """Who votes in a view, this party first; None where the folder does not say."""
        if view == 0 or not self.dynamic:
            return self.parties
        noted = next((tuple(row.members) for row in self.views if row.view == view), None)
        found = self._signed_by_all(view) if noted is None else noted
        if found is None:
            return None
        return tuple(sorted(found, key=lambda name: (name != self.party, name)))

    def _signed_by_all(self, view: int) -> tuple[str, ...] | None:
        """The list of members that the kept statements make."""
        signed = {row.party: row.body for row in self.statements if row.view == view}
        try:
            lists = {decode_statement(body).members for body in signed.values()}
        except ProtocolViolation:
            return None
        return next(iter(lists)) if len(lists) == 1 and lists == {tuple(sorted(signed))} else None

    def between(self, low: int, high: int) -> set[str]:
        """Parties that are members of both views and of all known ones between."""
        numbers = {low, high, *(row.view for row in self.views if low < row.view < high)}
        return set.intersection(*(set(self.members(number) or ()) for number in numbers))

    def vote_of(self, party: str, round: int, view: int | None = None) -> Vote | None:
        """What ``party`` voted in ``round``, as far as this folder knows and can read."""
        row = self.vote_row(party, round, view)
        try:
            return None if row is None else decode_vote(row.body)
        except ProtocolViolation:
            return None

    def vote_row(self, party: str, round: int, view: int | None = None) -> VoteRow | None:
        """The same, as it was signed; without ``view`` that of the highest."""
        found = [
            vote
            for vote in self.votes
            if (vote.party, vote.round) == (party, round) and view in (None, vote.view)
        ]
        return found[-1] if found else None

    def closed_in(self, closed: Closed) -> int:
        """Number of the highest view whose members' votes here all name what the round came to;
        where there is none, of the highest that this party voted in."""
        mine = [
            row.view for row in self.votes if (row.round, row.party) == (closed.round, self.party)
        ]
        for number in reversed(mine):
            found = [self.vote_of(p, closed.round, number) for p in self.members(number) or ()]
            if found and all(vote and vote.aggregate == closed.digest for vote in found):
                return number
        return mine[-1] if mine else 0

    def shared_after(self, closed: Closed) -> bytes | None:
        """Digest of the shared tensors after a closed round; None where it is not known."""
        if closed.outcome != "missed":
            vote = self.vote_of(self.party, closed.round)
            return vote.shared or None if vote is not None else None
        after = next((other for other in self.closed if other.round == closed.round + 1), None)
        within = after is not None and (after.outcome, after.digest) == ("missed", closed.digest)
        return None if within else closed.digest  # of rounds missed together only the last is known

    def witnessed_of(self, party: str) -> dict[int, Witnessed]:
        """Entries of the ledger of ``party`` by number."""
        return {w.entry.number: w for w in self.witnessed or () if w.entry.party == party}


def read_facts(path: Path, agreement: FederationConfig | None = None) -> Facts:
    """Read everything about ``path`` that can be checked, at one moment.

    Args:
        path: a run folder; a run may be writing to it.
        agreement: where the public keys are taken from; None: from the folder itself.

    Raises:
        FolderError: it is no run folder, of another format, or damaged.
    """
    faults: list[str] = []
    with RunFolder.read_only(path) as view, view.snapshot():
        rows = witnessed = None
        try:
            rows = view.ledger.rows()
            view.ledger.verify()
        except LedgerTampered as error:
            faults.append(error.message.removeprefix("the ledger was tampered with: "))
        try:
            witnessed = view.witnessed()
        except LedgerTampered as error:
            faults.append(error.message)
        closed = view.all_closed()
        rounds = range(1, (closed[-1].round if closed else 0) + 2)
        return Facts(
            path=path,
            party=view.party,
            run=view.run,
            peers=tuple(sorted(view.peer_folders)),
            keys=_keys(view, agreement),
            document=_json(view.contracts[-1][1]),
            rows=rows,
            witnessed=witnessed,
            closed=closed,
            inputs=tuple(row for round in rounds for row in view.inputs(round)),
            votes=tuple(row for round in rounds for row in view.votes(round)),
            views=tuple(view.views),
            statements=view.statements(),
            quarantined=view.quarantined,
            faults=tuple(faults),
        )


def offer_in(row: InputRow) -> Offer | None:
    """The signed offer of an input, or None where it cannot be read."""
    try:
        return msgspec.msgpack.decode(row.offer, type=Offer)
    except msgspec.MsgspecError:
        return None


def keys_followed(view: FolderView) -> dict[str, PartyKeys]:
    """Every key that each party had in the rosters that a folder followed: the newest one says
    which is present and which are revoked; all that were present before are retired."""
    found: dict[str, PartyKeys] = {}
    for text in view.rosters:
        for name, keys in _rostered(_json(text)):
            before = found.get(name)
            earlier = () if before is None else (before.present, *before.retired)
            revoked = set(keys.revoked)
            retired = [*keys.retired, *(k for k in earlier if k != keys.present)]
            found[name] = PartyKeys(
                present=keys.present,
                retired=tuple(key for key in dict.fromkeys(retired) if key not in revoked),
                revoked=keys.revoked,
            )
    return found


def _keys(view: FolderView, agreement: FederationConfig | None) -> dict[str, PartyKeys]:
    if agreement is not None:
        return {name: entry.keys for name, entry in agreement.parties.items()}
    return keys_followed(view)


def _rostered(roster: Mapping[str, Any]) -> Iterator[tuple[str, PartyKeys]]:
    for name, entry in roster.items():
        try:
            before = entry.get("retired", ())
            yield (
                name,
                PartyKeys(
                    present=str(entry["signing_key"]),
                    retired=tuple(str(k["signing_key"]) for k in before if not k.get("revoked")),
                    revoked=tuple(str(k["signing_key"]) for k in before if k.get("revoked")),
                ),
            )
        except (AttributeError, KeyError, TypeError):
            continue  # no keys of this party: every signature of it is a fault


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
