"""Either party dies at every durable point of a whole federation, and both end as if it had not.

Every point is tried, none is drawn: first the party stops before its first durable step, then
before its second, and so on until it ends without having been stopped. What a party has told its
peer that it holds is looked for in the image of every point.
"""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.entries import Receipted
from splitfed.errors import LedgerTampered
from splitfed.rounds import Terms
from splitfed.store import RunFolder
from splitfed.transport.events import Greeting, Offer
from splitfed.transport.link import Link
from tests.support.crash import CrashDisk, Image
from tests.support.members import Town, outputs_fusion
from tests.support.paying import paid_crash, paying
from tests.support.trials import PAIR, End, crash_at, faults, pair, undisturbed

ONE_ROUND: dict[str, Any] = {"rounds": 1}
FUSED: dict[str, Any] = {"rounds": 2, "fusion": outputs_fusion(list(PAIR), every=1)}
ENOUGH = 5
"""Faults after which no further point is tried."""


def every_point(
    path: Path, victim: str, kind: Image, calm: dict[str, End], changes: dict[str, Any]
) -> list[str]:
    """Die before each point in turn; returns the points in order."""
    wrong: list[str] = []
    for stop in itertools.count():
        trial = crash_at(pair(path / str(stop), **changes), victim, stop, kind, calm)
        where = f"{victim} before point {stop} ({trial.where or 'the end'}), image {kind}"
        wrong += [f"{where}: {fault}" for fault in trial.found]
        if not trial.where or len(wrong) > ENOUGH:
            break
    assert not wrong, "\n".join(wrong)
    return trial.points


@pytest.mark.parametrize("kind", ["torn"])  # "lost": with the fusions; "killed": `make soak`
@pytest.mark.parametrize("victim", PAIR)
def test_a_crash_at_any_durable_point_of_one_round_changes_nothing(
    tmp_path: Path, victim: str, kind: Image
) -> None:
    calm = undisturbed(tmp_path / "calm", **ONE_ROUND)
    points = every_point(tmp_path, victim, kind, calm, ONE_ROUND)
    assert len(points) >= 35, "a folder made, a round, a goodbye"


@pytest.mark.parametrize("victim", PAIR)
def test_a_power_loss_at_any_durable_point_of_rounds_and_fusions_changes_nothing(
    tmp_path: Path, victim: str
) -> None:
    calm = undisturbed(tmp_path / "calm", **FUSED)
    assert [kind for _, kind, _ in calm["a"].history] == ["update", "outputs"] * 2
    points = every_point(tmp_path, victim, "lost", calm, FUSED)
    assert len(points) >= 100, "four exchanges"


@pytest.mark.parametrize("victim", PAIR)
def test_after_a_power_loss_at_any_durable_point_what_was_sent_was_paid_exactly_once(
    tmp_path: Path, victim: str
) -> None:
    """Noise is new in every life, so a payload made again would have another root."""
    wrong: list[str] = []
    for stop in itertools.count():
        town = paying(tmp_path / str(stop))
        where, found = paid_crash(town, victim, stop)
        wrong += [f"{victim} before point {stop} ({where or 'the end'}): {it}" for it in found]
        if not where:
            break
    assert not wrong, "\n".join(wrong)
    assert stop >= 38, "one round, and a debit beside it"


class Keeping(CrashDisk):
    """Looks at each durable point whether a power loss there would take anything away that the
    peer was told is held.

    Args:
        town: whose party ``name`` writes here.

    Attributes:
        told: by number, the entries of the peer's ledger that were counter-signed and given away.
        looked: points at which something had been told.
        found: what was missing, at which point.
    """

    def __init__(self, town: Town, name: str) -> None:
        super().__init__(town.folders[name])
        self._terms, self._images = town.terms, town.path / f"images of {name}"
        self.told: dict[int, Receipted] = {}
        self.looked = 0
        self.found: list[str] = []

    def _point(self, what: str) -> None:
        super()._point(what)
        self.looked += bool(self.told)
        for kind in ("lost", "torn") if self.told else ():
            image = self.image(self._images, kind)
            self.found += [
                f"before {what}, image {kind}: {fault}"
                for told in self.told.values()
                for fault in not_held(image, self._terms, told)
            ]
            shutil.rmtree(image)


def not_held(path: Path, terms: Terms, told: Receipted) -> list[str]:
    """What a folder lacks of a release of which its party said that it holds it."""
    entry, found = told[0], []
    with RunFolder.read_only(path) as folder:
        closed = folder.closed()
        offers = [
            msgspec.msgpack.decode(row.offer, type=Offer)
            for row in folder.inputs(entry.round)
            if row.party == entry.party
        ]
        kept = folder.witnessed_at(entry.party, entry.number)
        try:
            # Nobody needs the bytes of a round before the last closed one any more.
            bytes_here = folder.inbox.check(entry.root)
            bytes_here |= closed is not None and entry.round < closed.round
        except LedgerTampered:
            bytes_here = False
    if not bytes_here:
        found.append("the bytes")
    if [offer.entry for offer in offers] != [entry] or not all(
        terms.signed_by(offer.party, offer.message(), offer.signature) for offer in offers
    ):
        found.append("the signed offer")
    if kept is None or (kept.entry, kept.counter_signature) != told:
        found.append("the counter-signed entry")
    return [f"no trace of {what} of round {entry.round} ({entry.kind})" for what in found]


def test_at_every_durable_point_what_a_peer_was_told_to_be_stored_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the moment on at which the link is told so: it may send it at once."""
    calm, town = undisturbed(tmp_path / "calm", **FUSED), pair(tmp_path / "town", **FUSED)
    writes = {peer: Keeping(town, name) for name, peer in (PAIR, PAIR[::-1])}
    town.disks.update({name: writes[peer] for name, peer in (PAIR, PAIR[::-1])})
    stored, greet = Link.stored, Link.greet

    def storing(self: Link, peer: str, offer: Offer, counter_signature: bytes) -> None:
        writes[peer].told[offer.number] = (offer.entry, counter_signature)
        stored(self, peer, offer, counter_signature)

    def greeting(self: Link, greeting: Greeting) -> None:
        for peer, told in greeting.entries_held.items():
            writes[peer].told[told[0].number] = told
        greet(self, greeting)

    monkeypatch.setattr(Link, "stored", storing)
    monkeypatch.setattr(Link, "greet", greeting)
    for name in PAIR:
        town.start(name)
    town.wait()
    assert faults(town, calm) == []
    for name, peer in (PAIR, PAIR[::-1]):
        disk = writes[peer]
        assert disk.found == []
        assert disk.looked >= 60, "of about 100 points, those after the first exchange"
        with RunFolder.read_only(town.folders[peer]) as folder:
            rows = folder.ledger.rows()
        assert [row.row.kind for row in rows] == ["update", "outputs"] * 2
        told = {number: ((name, receipt),) for number, (_, receipt) in disk.told.items()}
        assert {row.number: row.receipts for row in rows} == told, "nothing was told unseen"
