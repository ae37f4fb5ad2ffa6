"""Who owes a receipt of the last release: until all of them gave it, nothing more leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.errors import NoRunFolder
from splitfed.rounds.mail import Mail
from splitfed.rounds.receipts import Receipts
from splitfed.rounds.terms import UPDATE
from splitfed.rounds.vote import encode_vote, make_vote
from splitfed.store import Checkpoint, RunFolder
from splitfed.transport.events import Arrived, Delivered, Offer, OfferRefused
from splitfed.transport.keys import make_secret
from splitfed.transport.link import Link
from tests.support.folders import RUN, new_folder, payload_of, row_of, sign
from tests.support.hostile import until
from tests.support.members import INITIAL, Leaver, Town, make_terms
from tests.support.one import One, update


class Owner:
    """a, one of the parties ``names``, with its run folder."""

    def __init__(self, path: Path, names: str) -> None:
        secrets = {name: make_secret() for name in names}
        self.folder = new_folder(path)
        self.receipts = Receipts(
            terms=make_terms(list(names), secrets),
            party="a",
            folder=self.folder,
            signer=secrets["a"],
        )

    def releases(self, round: int) -> None:
        manifest, payload = payload_of(float(round))
        self.folder.release(row_of(manifest, round), payload, manifest, sign=sign)

    def vote_of(
        self, *names: str, round: int = 1, excluded: Mapping[str, str] | None = None
    ) -> None:
        for name in names:
            said = make_vote(
                run=RUN, round=round, party=name, inputs={}, excluded=excluded or {},
                aggregate=b"g" * 32,
            )  # fmt: skip
            self.folder.save_vote(round, 0, name, encode_vote(said), bytes(64))

    def receipt_of(self, *names: str, round: int = 1) -> None:
        offer = msgspec.structs.replace(update("a")[0], round=round)
        for name in names:
            self.receipts.delivered(Delivered(name, offer, name.encode() * 64))


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[[str], Owner]]:
    made: list[Owner] = []

    def make(names: str) -> Owner:
        made.append(Owner(tmp_path / names, names))
        return made[-1]

    yield make
    for one in made:
        one.folder.close()


def test_the_receipt_of_one_peer_is_not_that_of_the_others(owner: Callable[[str], Owner]) -> None:
    one = owner("abcd")
    one.releases(1)
    one.vote_of(*"abcd")
    assert one.receipts.owed(2, "bcd") == ["b", "c", "d"]
    for peer, left in (("c", ["b", "d"]), ("b", ["d"]), ("d", [])):
        one.receipt_of(peer)
        assert one.receipts.owed(2, "bcd") == left


def test_the_receipt_of_an_earlier_release_is_not_that_of_the_last(
    owner: Callable[[str], Owner],
) -> None:
    one = owner("abcd")
    for round in (1, 2):
        one.releases(round)
        one.vote_of(*"abcd", round=round)
    one.receipt_of(*"bcd", round=1)
    assert one.receipts.owed(3, "bcd") == ["b", "c", "d"]
    one.receipt_of("b", "c", round=2)
    assert one.receipts.owed(3, "bcd") == ["d"]


@pytest.mark.parametrize(("members", "owed"), [("bcd", ["c", "d"]), ("bc", ["c"]), ("b", [])])
def test_whoever_is_no_member_any_more_owes_nothing(
    owner: Callable[[str], Owner], members: str, owed: list[str]
) -> None:
    one = owner("abcd")
    one.releases(1)
    one.vote_of(*"abcd")
    one.receipt_of("b")
    assert one.receipts.owed(2, members) == owed


def test_a_member_owes_what_it_voted_on_and_nothing_of_a_round_closed_without_it(
    owner: Callable[[str], Owner],
) -> None:
    """d voted on the release before, and was left out of the round of the last one."""
    one = owner("abcd")
    one.releases(1)
    one.vote_of(*"abcd", round=1)
    one.receipt_of(*"bcd", round=1)
    one.releases(2)
    one.vote_of(*"abc", round=2)
    one.receipt_of("b", round=2)
    assert one.receipts.owed(3, "bcd") == ["c"]
    one.receipt_of("c", round=2)
    assert one.receipts.owed(3, "bcd") == []


@pytest.mark.parametrize("names", ["ab", "abcd"])
def test_without_an_own_vote_only_the_one_peer_of_a_pair_owes(
    owner: Callable[[str], Owner], names: str
) -> None:
    """Of three and more, the others closed such a round without a: none had to take its update.
    With two, no round is ever closed without one of them."""
    one, peers = owner(names), names[1:]
    one.releases(1)
    one.vote_of(*peers)
    assert one.receipts.owed(2, peers) == (["b"] if names == "ab" else [])
    one.vote_of("a")
    assert one.receipts.owed(2, peers) == list(peers)
    one.receipt_of(*peers)
    assert one.receipts.owed(2, peers) == []


@pytest.mark.parametrize("names", ["ab", "abcd"])
@pytest.mark.parametrize("excluded", ["a", "b"])
def test_of_a_release_that_was_voted_out_no_receipt_is_owed(
    owner: Callable[[str], Owner], names: str, excluded: str
) -> None:
    """It may have been refused unseen. That another party's was voted out excuses nobody."""
    one, peers = owner(names), names[1:]
    one.releases(1)
    one.vote_of(*names, excluded={excluded: "too long"})
    assert one.receipts.owed(2, peers) == ([] if excluded == "a" else list(peers))


# --- real engines ------------------------------------------------------------------------


class Held(Town):
    """a, b and c, where c keeps back its receipt of a's update of round 2 until :meth:`let_go`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, list("abc"), {"rounds": 4})
        self.held: list[Callable[[], None]] = []

    def link_type(self, name: str) -> type[Link]:
        town = self

        class Late(Link):
            def stored(self, peer: str, offer: Offer, counter_signature: bytes) -> None:
                give = super().stored
                if (offer.party, offer.round) == ("a", 2):
                    town.held.append(lambda: give(peer, offer, counter_signature))
                else:
                    give(peer, offer, counter_signature)

        return Late if name == "c" else Link

    def let_go(self) -> None:
        for give in self.held:
            give()

    def begin(self) -> None:
        for name in self.names:
            self.start(name)

    def releases(self, name: str) -> list[tuple[int, tuple[str, ...]]]:
        """Rounds of which ``name`` released something, with those whose receipt it has."""
        try:
            with RunFolder.read_only(self.folders[name]) as folder:
                return [(row.row.round, row.acknowledged) for row in folder.ledger.rows()]
        except NoRunFolder:  # its thread has not made one yet
            return []

    def outcomes(self, names: str) -> list[Any]:
        ends = [self.endings[name] for name in names]
        return [getattr(end, "outcome", end) for end in ends]

    def awaited(self, name: str) -> Any:
        """What ``name`` says that it waits for."""
        said = RunFolder.read_status(self.folders[name]) or {}
        return (said.get("waiting") or {}).get("for")

    def stands(self) -> bool:
        """All but c's receipt of a's second release is there; or a went on without it."""
        found = {name: self.releases(name) for name in self.names}
        if len(found["a"]) > 2:
            return True
        everybody = [(1, ("b", "c")), (2, ("b",))]
        others = all(len(found[name]) == 3 for name in "bc")
        return found["a"] == everybody and others and self.awaited("a") == "receipt"


def test_with_the_receipt_of_one_of_two_peers_nothing_more_is_released(tmp_path: Path) -> None:
    town = Held(tmp_path)
    town.begin()
    until(town.stands, "a to wait for the receipt of c")
    assert town.releases("a") == [(1, ("b", "c")), (2, ("b",))]
    town.let_go()
    town.wait(within=20.0)
    assert town.outcomes("abc") == ["done"] * 3
    assert [round for round, _ in town.releases("a")] == [1, 2, 3, 4]
    assert town.releases("a")[1] == (2, ("b", "c"))


def test_the_receipt_of_one_that_left_is_not_waited_for(tmp_path: Path) -> None:
    town = Held(tmp_path)
    town.learners["c"] = Leaver(3.0, last=3)
    town.begin()
    town.wait("a", "b", within=20.0)
    assert town.outcomes("ab") == ["done"] * 2
    assert town.releases("a") == [(1, ("b", "c")), (2, ("b",)), (3, ("b",)), (4, ("b",))]


def test_for_a_round_that_others_closed_without_it_nothing_is_owed(
    owner: Callable[[str], Owner],
) -> None:
    """It had released and voted, and they all had: then they closed it in a view without it."""
    one = owner("abcd")
    one.releases(1)
    one.vote_of(*"abcd")
    assert one.receipts.owed(2, "bcd") == ["b", "c", "d"]
    made = Checkpoint(round=1, tensors={}, meta={"phase": "closed"})
    one.folder.close_missed([(1, b"g" * 32, {"outcome": "missed"})], made)
    assert one.receipts.owed(2, "bcd") == []


@pytest.mark.parametrize(("names", "owed"), [("ab", ["b"]), ("abcd", [])])
def test_among_three_a_receipt_that_never_comes_is_waited_for_in_one_round_alone(
    owner: Callable[[str], Owner], names: str, owed: list[str]
) -> None:
    one, peers = owner(names), names[1:]
    one.releases(1)
    one.vote_of(*names)
    assert one.receipts.owed(2, peers) == list(peers)
    assert one.receipts.owed(3, peers) == owed


@pytest.mark.parametrize("late", ["arrived", "refused"])
def test_what_another_passed_on_before_is_receipted_when_its_party_offers_it_late(
    one: One, mail: Mail, late: str
) -> None:
    """It was voted on, and its round is closed."""
    offer, payload = update("b")
    mail.handle(Arrived("c", offer, bytearray(payload)))
    told: list[tuple[str, Offer, bytes]] = []
    one.link.stored = lambda *said: told.append(said)
    one.closes(1)
    assert mail.open(INITIAL, (UPDATE,)) == []
    if late == "arrived":
        mail.handle(Arrived("b", offer, bytearray(payload)))
    else:
        mail.handle(OfferRefused("b", offer, "round is closed"))
    assert [said[:2] for said in told] == [("b", offer)]
    assert mail.receipts.signed(offer)


def test_what_is_not_here_is_not_receipted_however_late_it_comes(one: One, mail: Mail) -> None:
    offer, _ = update("b")
    told: list[Any] = []
    one.link.stored = lambda *said: told.append(said)
    one.closes(1)
    assert mail.open(INITIAL, (UPDATE,)) == []
    mail.handle(OfferRefused("b", offer, "round is closed"))
    assert (told, mail.receipts.signed(offer)) == ([], False)
