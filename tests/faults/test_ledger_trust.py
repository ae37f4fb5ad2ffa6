"""A ledger that the other side can trust: entries are signed by both sides, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.errors import PeerUnreachable
from splitfed.rounds.receipts import Receipts
from splitfed.run.crosscheck import check_folders
from splitfed.store import RunFolder
from splitfed.tensors import describe
from splitfed.transport.events import Arrived, Delivered, Offer, Voted
from splitfed.transport.keys import verify_signature
from splitfed.transport.link import Link
from tests.rounds.test_engine import Liar, PowerCut
from tests.support.hostile import until
from tests.support.members import INITIAL, AddingLearner, Town

WITHIN = 30.0
PAYLOAD = sum(spec.nbytes for spec in describe(INITIAL))


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path, ["a", "b"])


def run(town: Town, *names: str) -> None:
    for name in names or ("a", "b"):
        town.start(name)
    town.wait()


def done(town: Town) -> None:
    for name in "ab":
        ending = town.endings[name]
        assert not isinstance(ending, BaseException), ending
        assert (ending.outcome, ending.confirmed) == ("done", True)
    assert [it.faults for it in check_folders([town.folders[n] for n in "ab"])] == [[], []]


# --- both sides sign -------------------------------------------------------------------------


def test_every_entry_is_signed_by_its_party_and_counter_signed_by_the_other(town: Town) -> None:
    run(town)
    for me, peer in ("ab", "ba"):
        with RunFolder.read_only(town.folders[me]) as mine:
            rows, name = mine.ledger.rows(), mine.run
        with RunFolder.read_only(town.folders[peer]) as theirs:
            kept = theirs.witnessed()
        assert name is not None
        assert len(rows) == len(kept) == 4
        keys = town.terms.signing_keys
        for row, witnessed in zip(rows, kept, strict=True):
            entry = row.entry(name, me)
            assert witnessed.entry == entry
            ((signer, receipt),) = row.receipts
            assert (signer, receipt) == (peer, witnessed.counter_signature)
            assert verify_signature(keys[me], entry.message(), entry.signature)
            assert verify_signature(keys[peer], entry.receipt_message(peer), receipt)
            assert not verify_signature(keys[peer], entry.receipt_message(me), receipt)


def test_five_parties_counter_sign_each_other(tmp_path: Path) -> None:
    names = list("abcde")
    town = Town(tmp_path, names, {"rounds": 2, "max_update_norm": 100.0})
    run(town, *names)
    checked = check_folders([town.folders[name] for name in names])
    assert [it.faults for it in checked] == [[]] * 5
    assert [it.unacknowledged for it in checked] == [[]] * 5


# --- crashes between storing and answering ---------------------------------------------------


def test_what_was_stored_before_a_crash_is_answered_and_not_pulled_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Link.stored

    def dying(self: Link, peer: str, offer: Offer, counter_signature: bytes) -> None:
        if peer == "a" and offer.round == 2:
            raise PowerCut  # stored durably, and not told
        real(self, peer, offer, counter_signature)

    monkeypatch.setattr(Link, "stored", dying)
    town.start("a")
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], PowerCut)
    with RunFolder.read_only(town.folders["a"]) as view:
        assert view.ledger.rows()[1].acknowledged == ()
    monkeypatch.undo()
    town.learners["b"] = AddingLearner(2.0)
    town.start("b")
    town.wait()
    # Rounds 3 and 4 came; round 2 was there.
    assert town.links["b"].traffic().payload_received == 2 * PAYLOAD
    with RunFolder.read_only(town.folders["a"]) as view:
        assert view.ledger.rows()[1].acknowledged == ("b",)
    done(town)


def test_a_receipt_that_got_lost_comes_with_the_next_greeting(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a round that the peer has closed, so that it is not offered again."""
    delivered, owed, cuts = Receipts.delivered, Receipts.owed, []

    def losing(self: Receipts, event: Delivered) -> None:
        if event.round != 2:
            delivered(self, event)

    def cutting(self: Receipts, round: int, members: list[str]) -> list[str]:
        found = owed(self, round, members)
        if found and not cuts:
            cuts.append(round)
            town.hub.cut("a", "b", lose=True)
        return found

    monkeypatch.setattr(Receipts, "delivered", losing)
    monkeypatch.setattr(Receipts, "owed", cutting)
    run(town)
    assert cuts == [3]
    done(town)


def test_nothing_is_released_before_the_entry_before_it_is_acknowledged(town: Town) -> None:
    class Silent(Liar):
        def expect(self, kind: Any) -> Any:
            while True:
                event = self.link.next(timeout=WITHIN)
                assert event is not None
                if isinstance(event, Arrived):
                    self.run = event.offer.run
                if isinstance(event, kind):
                    return event

    town.start("a", patience=0.5)
    with Silent(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted))
        town.wait("a")
    assert isinstance(town.endings["a"], PeerUnreachable)
    assert "while we wait for its receipt" in str(town.endings["a"])
    with RunFolder.read_only(town.folders["a"]) as view:
        assert (view.closed().round, len(view.ledger)) == (1, 1)


# --- entries that no honest ledger has -------------------------------------------------------


@pytest.mark.parametrize(
    ("round", "place", "says"),
    [
        (1, {"number": 2}, "shows entry 2 of its ledger for round 1 where entry 1 is the next"),
        (2, {"number": 4}, "shows entry 4 of its ledger for round 2 where entry 2 is the next"),
        (2, {"number": 1}, "signed two different entries number 1 of its ledger"),
        (2, {"number": 1, "head": bytes([1]) * 32}, "signed two different entries number 1"),
    ],
    ids=["begins later", "jumps", "goes back", "the same again"],
)
def test_a_ledger_that_jumps_or_goes_back_ends_the_federation_and_is_kept_as_evidence(
    town: Town, round: int, place: dict[str, Any], says: str
) -> None:
    town.start("a")
    with Liar(town) as liar:
        for open_round in range(1, round + 1):
            liar.expect(Arrived)
            last = open_round == round
            liar.offer(INITIAL, open_round, **(place if last else {}))
            if not last:
                liar.vote(liar.expect(Voted))
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert says in town.rejected["a"][0]["reason"]
    with RunFolder.read_only(town.folders["a"]) as view:
        (evidence,) = view.evidence()
        assert len(view.witnessed()) == round - 1
    shown = msgspec.msgpack.decode(evidence.body, type=Offer)
    assert (shown.number, evidence.party, evidence.round) == (place["number"], "b", round)
    assert verify_signature(
        town.terms.signing_keys["b"], shown.entry.message(), shown.entry_signature
    )


def test_a_second_entry_for_one_round_is_kept_as_evidence_though_the_link_finds_it(
    town: Town,
) -> None:
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.expect(Voted)
        liar.link.discard(1)
        liar.offer(INITIAL, 1, head=b"2" * 32)
        town.wait("a")
    assert "two different signed ledger entries" in town.rejected["a"][0]["reason"]
    with RunFolder.read_only(town.folders["a"]) as view:
        (evidence,) = view.evidence()
    assert msgspec.msgpack.decode(evidence.body, type=Offer).head == b"2" * 32


def test_an_offer_that_was_refused_unseen_counts_in_the_peers_ledger_without_a_receipt(
    town: Town,
) -> None:
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer({"w": INITIAL["w"]}, 1)  # a tensor is missing: nothing is pulled
        liar.vote(liar.expect(Voted))
        liar.expect(Arrived)
        liar.offer(INITIAL, 2)
        liar.vote(liar.expect(Voted))
        liar.expect(Arrived)  # round 2 is closed
        with RunFolder.read_only(town.folders["a"]) as view:
            kept = [(w.entry.number, w.counter_signature is None) for w in view.witnessed()]
        assert kept == [(1, True), (2, False)]
        assert [row["outcome"] for row in town.history("a")] == ["void", "agreed"]
        liar.offer(INITIAL, 3, number=9)
        town.wait("a")


def test_an_entry_of_another_run_is_never_counter_signed(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that comes late for a closed round either: that its number is known says nothing,
    and the receipt would be good in that other run."""
    real, told = Link.stored, []

    def telling(self: Link, peer: str, offer: Offer, counter_signature: bytes) -> None:
        if peer == "b":
            told.append((offer.round, offer.run == liar.run))
        real(self, peer, offer, counter_signature)

    monkeypatch.setattr(Link, "stored", telling)
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.expect(Delivered)
        liar.vote(liar.expect(Voted))
        liar.expect(Arrived)  # round 1 is closed
        liar.offer({"w": INITIAL["w"], "b": INITIAL["b"] + 7}, 1, run=b"R" * 32)
        liar.offer(INITIAL, 2)
        liar.vote(liar.expect(Voted))
        liar.expect(Arrived)  # everything before was taken in
        assert told == [(1, True), (2, True)]
        liar.offer(INITIAL, 3, number=9)
        town.wait("a")


def test_a_crash_after_the_votes_does_not_make_a_refused_offer_a_later_fault(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The peer offers it again to the restarted party, which may close the round before it
    hears of that: the void round is all that the offer costs, with a crash or without."""
    real, lives = RunFolder.close_round, []

    def closing(self: RunFolder, round: int, *rest: Any, **fields: Any) -> None:
        if round == 1 and not lives:
            lives.append(1)
            raise PowerCut
        if round == 1:
            receiving = town.links["a"]._conversations["b"].receiving
            until(lambda: bool(receiving._refused), "the offer that is refused again")
        real(self, round, *rest, **fields)

    monkeypatch.setattr(RunFolder, "close_round", closing)
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer({"w": INITIAL["w"]}, 1)
        liar.vote(liar.expect(Voted))
        town.wait("a")
        assert isinstance(town.endings["a"], PowerCut)
        town.learners["a"] = AddingLearner(1.0)
        town.start("a")
        liar.expect(Arrived)
        liar.offer(INITIAL, 2)
        liar.vote(liar.expect(Voted))
        liar.expect(Arrived)
        liar.offer(INITIAL, 3, number=9)
        town.wait("a")
    assert [row["outcome"] for row in town.history("a")][:2] == ["void", "agreed"]


def test_a_payload_that_was_signed_for_another_run_is_shown_by_verify(town: Town) -> None:
    """It came before this run had a name, or was refused: no entry of this ledger tells of it."""
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1, run=b"R" * 32)
        liar.vote(liar.expect(Voted))
        liar.expect(Arrived)
        liar.offer(INITIAL, 2, number=9)
        town.wait("a")
    (checked,) = check_folders([town.folders["a"]])
    assert any("what b sent in round 1: signed for another run" in note for note in checked.notes)
