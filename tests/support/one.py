"""One party's membership with a real folder and a link that only listens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from splitfed.rounds.book import Book
from splitfed.rounds.entrance import Entrance
from splitfed.rounds.gates import Admission, admit
from splitfed.rounds.membership import Membership
from splitfed.rounds.terms import UPDATE, Terms
from splitfed.rounds.view import Statement
from splitfed.rounds.vote import Vote, encode_vote, make_vote
from splitfed.store import Checkpoint, RunFolder
from splitfed.tensors import describe, digest, manifest_of, pack
from splitfed.transport.events import (
    Noted,
    Offer,
    Outgoing,
    PeerView,
    note_message,
    offer_message,
    vote_message,
)
from splitfed.transport.keys import make_secret
from tests.support.members import INITIAL, make_terms

RUN = b"r" * 32
SECRETS = {name: make_secret() for name in "abc"}
TERMS = make_terms(list("abc"), SECRETS)


class Ear:
    """The part of a link that a member speaks to: it remembers what was said to whom, how many
    of the member's own statements were durable then, and whether a vote was when it was sent."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.notes: list[tuple[int, str, str, bytes, tuple[str, ...] | None]] = []
        self.durable: list[int] = []
        self.passed: list[tuple[str, bytes | None, tuple[str, ...]]] = []
        self.offered: list[tuple[str, tuple[str, ...]]] = []
        self.votes: list[tuple[bytes, bool]] = []

    def note(
        self, round: int, origin: str, kind: Any, body: bytes, signature: bytes, to: Any = None
    ) -> None:
        assert TERMS.signed_by(origin, note_message(kind, body), signature)
        self.notes.append((round, origin, kind, body, to and tuple(to)))
        self.durable.append(sum(row.party == "a" for row in self.folder.statements()))

    def pass_on(self, offer: Offer, payload: bytes | None, to: Any) -> None:
        self.passed.append((offer.party, payload, tuple(to)))

    def offer(self, outgoing: Outgoing, to: Any = None) -> None:
        self.offered.append((outgoing.offer.kind, tuple(to)))

    def vote(self, round: int, body: bytes, signature: bytes) -> None:
        row = self.folder.own_vote(round)
        self.votes.append((body, row is not None and row.body == body))

    def stored(self, peer: str, offer: Offer, counter_signature: bytes) -> None:
        pass

    def look_again(self) -> None:
        pass

    def peers_status(self) -> Mapping[str, PeerView]:
        return {}

    def said(self, kind: str) -> list[tuple[str, bytes]]:
        return [(origin, body) for _, origin, of, body, _ in self.notes if of == kind]


class One:
    """a, whose folder is in ``path``, in round ``round``."""

    def __init__(self, path: Path, round: int = 1) -> None:
        self.folder = RunFolder.open(path, party="a", contract=TERMS.contract)
        if self.folder.run is None:
            self.folder.fix_run(RUN, {name: name.encode() * 16 for name in "bc"})
        self.link, self.entrance = Ear(self.folder), Entrance(TERMS)
        self.membership = self.member(TERMS)
        self.book = Book(round=round)
        self.membership.open(self.book, (UPDATE,) * (round - 1), RUN, INITIAL)

    def member(self, terms: Terms) -> Membership:
        """As a makes it at its start, with these terms."""
        link: Any = self.link
        return Membership(
            terms=terms,
            party="a",
            folder=self.folder,
            link=link,
            entrance=self.entrance,
            signer=SECRETS["a"],
        )

    def hears(self, said: Statement, *, of: str = "", peer: str = "") -> None:
        self.membership.noted(noted("view", msgspec.msgpack.encode(said), of or said.party, peer))
        believe(self.membership)

    def holds(self, party: str, face: int = 0) -> Admission:
        offer, payload = update(party, face)
        self.folder.inbox.put(offer.manifest, payload)
        root = offer.manifest.root
        self.folder.save_input(1, party, msgspec.msgpack.encode(offer), root)
        verdict = admit(offer, payload, terms=TERMS, base=INITIAL, run=RUN, round=1)
        assert verdict.reason is None
        self.book.add_input(verdict)
        return verdict

    def votes(self, vote: Vote) -> None:
        body = encode_vote(vote)
        signature = SECRETS[vote.party].sign(vote_message(body))
        self.folder.save_vote(vote.round, vote.view, vote.party, body, signature)
        self.book.add_vote(vote)

    def closes(self, round: int) -> None:
        made = Checkpoint(round=round, tensors=dict(INITIAL), meta={"phase": "closed"})
        self.folder.close_round(round, "agreed", digest(INITIAL), made, {"outcome": "agreed"})


def believe(membership: Membership) -> None:
    """Let it take in what waited for the last word."""
    while (ready := membership.ready()) is not None:
        membership.noted(ready)


def noted(kind: Any, body: bytes, origin: str, peer: str = "") -> Noted:
    signature = SECRETS[origin].sign(note_message(kind, body))
    return Noted(peer or origin, 1, origin, kind, body, signature)


def update(party: str, face: int = 0) -> tuple[Offer, bytes]:
    tensors = {name: value + "abc".index(party) + face / 2 for name, value in INITIAL.items()}
    payload = pack(tensors)
    manifest, sign = manifest_of(payload, describe(tensors)), SECRETS[party].sign
    message = offer_message(run=RUN, round=1, party=party, kind=UPDATE, root=manifest.root)
    offer = Offer(
        kind=UPDATE,
        run=RUN,
        round=1,
        party=party,
        manifest=manifest,
        signature=sign(message),
        number=1,
        head=b"h" * 32,
        entry_signature=bytes(64),
    )
    return msgspec.structs.replace(offer, entry_signature=sign(offer.entry.message())), payload


def shown(party: str, face: int = 0) -> tuple[bytes, bytes]:
    offer, _ = update(party, face)
    return offer.manifest.root, offer.signature


def vote(party: str, view: int, of: str, *, faces: Mapping[str, int] | None = None) -> Vote:
    found = {name: shown(name, (faces or {}).get(name, 0)) for name in of}
    return make_vote(
        run=RUN,
        view=view,
        round=1,
        party=party,
        inputs={name: root for name, (root, _) in found.items()},
        offers={name: signature for name, (_, signature) in found.items()},
        excluded={},
        aggregate=b"g" * 32,
    )


def later_vote(party: str, view: int, of: str, round: int) -> Vote:
    """On updates of another round than the first, of which there is but the digest."""
    root = b"u" * 32
    fields: dict[str, Any] = {"run": RUN, "round": round, "kind": UPDATE, "root": root}
    return make_vote(
        run=RUN,
        view=view,
        round=round,
        party=party,
        inputs=dict.fromkeys(of, root),
        offers={name: SECRETS[name].sign(offer_message(party=name, **fields)) for name in of},
        excluded={},
        aggregate=b"g" * 32,
    )


def word(
    party: str,
    view: int,
    members: str,
    *,
    round: int = 1,
    cast: Vote | None = None,
    holds: Any = (),
) -> Statement:
    body = b"" if cast is None else encode_vote(cast)
    return Statement(
        run=RUN,
        view=view,
        round=round,
        party=party,
        members=tuple(members),
        vote=body,
        vote_signature=SECRETS[party].sign(vote_message(body)) if body else b"",
        inputs=tuple((name, *shown(name, face)) for name, face in sorted(dict(holds).items())),
    )
