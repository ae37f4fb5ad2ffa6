"""A party that was put back is told by what its peers hold of it, before it releases anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.entries import Entry, Receipted, entry_message
from splitfed.errors import FolderDiverged
from splitfed.rounds import run_id
from splitfed.store import FolderView, RunFolder
from splitfed.transport.events import Arrived, Greeting, Offer, Voted
from splitfed.transport.frames import OfferBody, Type, decode_body, decode_header
from splitfed.transport.memory import Recorded
from tests.rounds.test_engine import Liar, PowerCut
from tests.support.hostile import until
from tests.support.members import INITIAL, AddingLearner, Town


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path, ["a", "b"])


def offers(town: Town, sender: str) -> list[Offer]:
    """Fills with every offer that ``sender`` puts on the wire from now on."""
    found: list[Offer] = []

    def look(frame: Recorded) -> None:
        header = decode_header(frame.header)
        if frame.sender == sender and header.type is Type.OFFER:
            body = decode_body(header, frame.body)
            assert isinstance(body, OfferBody)
            found.append(body.offer)

    town.hub.record = look
    return found


# --- what a peer remembers of me -------------------------------------------------------------


class Remembering(Liar):
    """Shows an entry of a's ledger in its greeting."""

    def __init__(self, town: Town, show: Callable[[bytes], dict[str, Receipted]]) -> None:
        with RunFolder.open(town.folders["a"], party="a", contract=town.terms.contract) as folder:
            ids = {"a": folder.folder_id, "b": b"L" * 16}
        self._held = show(run_id(town.terms.contract, ids))
        super().__init__(town)
        self.link.greet(self._greeting)

    @property
    def _greeting(self) -> Greeting:
        greeting = self.town.greeting("b", b"L" * 16, 1)
        return msgspec.structs.replace(greeting, entries_held=self._held)


def entry_of(town: Town, run: bytes, number: int = 3, signer: str = "a") -> Entry:
    fields: dict[str, Any] = {
        "run": run, "party": "a", "number": number, "head": b"h" * 32, "root": b"r" * 32,
        "round": number, "kind": "update",
    }  # fmt: skip
    return Entry(**fields, signature=town.secrets[signer].sign(entry_message(**fields)))


def shown_by(town: Town, entry: Entry, signer: str = "b") -> dict[str, Receipted]:
    return {"a": (entry, town.secrets[signer].sign(entry.receipt_message("b")))}


def test_an_entry_of_mine_that_my_ledger_lacks_stops_me_before_anything_leaves(town: Town) -> None:
    seen = offers(town, "a")
    liar = Remembering(town, lambda run: shown_by(town, entry_of(town, run)))
    town.start("a")
    with liar:
        town.wait("a")
    error = town.endings["a"]
    assert isinstance(error, FolderDiverged)
    assert error.exit_code == 4
    for part in ("b holds entry 3 of this party's ledger (round 3, update)", "ends at entry 0"):
        assert part in error.message
    assert "restored from a backup?" in error.message
    assert seen == []
    with RunFolder.read_only(town.folders["a"]) as view:
        assert (len(view.ledger), view.outbox.roots()) == (0, frozenset())


def test_another_entry_of_mine_in_the_same_place_stops_me(town: Town) -> None:
    """Put back, and this peer was away when other bytes were released to somebody."""

    def cut(round: int) -> None:
        if round == 2:
            raise PowerCut

    town.learners["a"].crash = cut
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted))
        town.wait("a")
    town.learners["a"] = AddingLearner(1.0)
    liar = Remembering(town, lambda run: shown_by(town, entry_of(town, run, number=1)))
    town.start("a")
    with liar:
        town.wait("a")
    error = town.endings["a"]
    assert isinstance(error, FolderDiverged), error
    assert "b holds entry 1 of this party's ledger" in error.message
    assert "has another in its place" in error.message


@pytest.mark.parametrize(
    ("show", "says"),
    [
        (
            lambda town, run: shown_by(town, entry_of(town, run, signer="b")),
            "shows a ledger entry under our name that we did not sign",
        ),
        (
            lambda town, run: {
                "a": shown_by(town, msgspec.structs.replace(entry_of(town, run), number=1))["a"]
            },
            "shows a ledger entry under our name that we did not sign",
        ),
    ],
    ids=["signed by itself", "changed"],
)
def test_an_entry_that_i_did_not_sign_is_a_violation(
    town: Town, show: Callable[[Town, bytes], dict[str, Receipted]], says: str
) -> None:
    liar = Remembering(town, lambda run: show(town, run))
    town.start("a")
    with liar:
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert says in town.rejected["a"][0]["reason"]


def test_an_entry_of_another_run_says_nothing_about_this_one(town: Town) -> None:
    liar = Remembering(town, lambda run: shown_by(town, entry_of(town, b"q" * 32)))
    town.start("a")
    with liar:
        assert liar.expect(Arrived).offer.number == 1
        liar.offer(INITIAL, 1, number=9)
        town.wait("a")


# --- a machine that was put back -------------------------------------------------------------


def test_a_machine_put_back_before_its_vote_stops_before_it_releases_other_bytes(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run folder and budget together: nothing on the own disk can know of the release."""

    def copy(round: int) -> None:
        if round == 2:
            shutil.copytree(town.folders["b"], town.path / "snapshot")

    real = RunFolder.save_vote

    def dying(self: RunFolder, **vote: Any) -> Any:
        if self.party == "b" and vote["round"] == 2:
            # The peer has the update of round 2 durably, and no vote of ours on it.
            until(lambda: kept_by_a(town) == 2)
            raise PowerCut
        return real(self, **vote)

    monkeypatch.setattr(RunFolder, "save_vote", dying)
    town.learners["b"].crash = copy
    town.start("a")
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], PowerCut)
    monkeypatch.undo()
    shutil.rmtree(town.folders["b"])
    (town.path / "snapshot").rename(town.folders["b"])
    town.learners["b"] = AddingLearner(7.0)  # other noise, other bytes
    seen = offers(town, "b")
    town.start("b")
    town.wait("b")
    error = town.endings["b"]
    assert isinstance(error, FolderDiverged), error
    assert error.exit_code == 4
    assert "a holds entry 2 of this party's ledger (round 2, update)" in error.message
    assert "ends at entry 1: was this folder restored from a backup?" in error.message
    assert {offer.round for offer in seen} <= {1}
    with RunFolder.read_only(town.folders["b"]) as view:
        assert len(view.ledger) == 1
        assert view.outbox.roots() == {view.ledger.rows()[0].row.root}


def kept_by_a(town: Town) -> int:
    with FolderView.at(town.folders["a"]) as view:
        return len([w for w in view.witnessed() if w.counter_signature])
