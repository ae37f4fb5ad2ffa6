"""Three parties and more: whoever vanishes, leaves or lies, the others go on, and all that agree
on a round agree on what came of it. Real engines over the in-memory link."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.errors import FolderDiverged, PeerUnreachable
from splitfed.rounds.past import check_own_past
from splitfed.rounds.statements import decode_lie
from splitfed.rounds.vote import decode_vote, encode_vote, make_vote
from splitfed.store import RunFolder
from splitfed.tensors import describe, digest, manifest_of, pack, unpack
from splitfed.transport.events import Outgoing, vote_message
from splitfed.transport.link import Link
from tests.support.hostile import until
from tests.support.members import AddingLearner, Leaver, Town
from tests.support.quick import (
    DEAD,
    PowerCut,
    QuickLink,
    after,
    alike,
    begin,
    dies_in,
    ended,
    town_of,
    views_of,
)

pytestmark = pytest.mark.usefixtures("silence")


@pytest.mark.usefixtures("waited_out")
def test_whoever_vanishes_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    town = town_of(tmp_path)
    dies_in(town, "c", 2)
    begin(town, confirm_within=5.0)
    town.wait()
    assert isinstance(town.endings["c"], PowerCut)
    assert alike(ended(town, "ab"), after([1, 2, 3], *[[1, 2]] * 3))
    assert views_of(town, "a") == views_of(town, "b") == [["a", "b"]]


def test_five_parties_lose_two_one_after_the_other(tmp_path: Path) -> None:
    town = town_of(tmp_path, "abcde", max_update_norm=100.0)
    dies_in(town, "c", 2)
    dies_in(town, "e", 3)
    begin(town)
    town.wait()
    steps = [[1, 2, 3, 4, 5], [1, 2, 4, 5], [1, 2, 4], [1, 2, 4]]
    assert alike(ended(town, "abd"), after(*steps))


def test_too_few_others_wait_as_before(tmp_path: Path) -> None:
    """Two of three are gone: one that went on would be alone, which is for on_absent to say."""
    town = town_of(tmp_path)
    dies_in(town, "b", 2)
    dies_in(town, "c", 2)
    begin(town)
    town.wait()
    assert isinstance(town.endings["a"], PeerUnreachable)
    for name in "bc":
        town.learners[name] = AddingLearner({"b": 2.0, "c": 3.0}[name])
    DEAD.clear()
    begin(town)
    town.wait()
    assert alike(ended(town, "abc"), after(*[[1, 2, 3]] * 4))
    # a may have proposed to go on with the one whose death it had not noticed yet.
    assert all(members == ["a", "b", "c"] for members in views_of(town, "a"))


def test_where_the_rule_can_spare_nobody_the_others_wait_and_no_round_is_void(
    tmp_path: Path,
) -> None:
    """There is no median of two updates: a view of two could close void rounds only."""
    town = town_of(tmp_path, rule="median", byzantine=1)
    dies_in(town, "c", 2)
    begin(town)
    town.wait()
    for name in "ab":
        found = town.endings[name]
        assert isinstance(found, PeerUnreachable)
        assert found.message.endswith("not enough others are left: rule median needs 3 updates")
    for name in "abc":
        town.learners[name] = AddingLearner({"a": 1.0, "b": 2.0, "c": 3.0}[name])
    DEAD.clear()
    begin(town)
    town.wait()
    assert alike(ended(town, "abc"), after(*[[2]] * 4))
    assert {row["outcome"] for row in town.history("a")} == {"agreed"}
    assert views_of(town, "a") == []


def reaches_only(town: Town, monkeypatch: pytest.MonkeyPatch, what: str, first: str) -> None:
    """In round 2, c's ``what`` ("both": update and vote) is sent to ``first`` alone, and then c is
    gone."""
    real_offer, real_vote = Link.offer, Link.vote

    def gone(link: Link) -> None:
        arrived(town, first, what)
        town.kill("c")
        DEAD.add("c")
        raise PowerCut

    def offer(self: Link, outgoing: Any, to: Any = None) -> None:
        last = (outgoing.offer.party, outgoing.offer.round) == ("c", 2) and what != "vote"
        real_offer(self, outgoing, to=[first] if last else to)
        if last and what == "update":
            gone(self)

    def vote(self: Link, round: int, body: bytes, signature: bytes) -> None:
        last = (decode_vote(body).party, round) == ("c", 2) and what != "update"
        if last:
            town.hub.part("c", "b" if first == "a" else "a")
        real_vote(self, round, body, signature)
        if last:
            gone(self)

    monkeypatch.setattr(Link, "offer", offer)
    monkeypatch.setattr(Link, "vote", vote)


def arrived(town: Town, at: str, what: str) -> None:
    """c's ``what`` of round 2 is in the folder of ``at``."""

    def came() -> bool:
        with RunFolder.read_only(town.folders[at]) as folder:
            rows = folder.inputs(2) if what == "update" else folder.votes(2)
        return any(row.party == "c" for row in rows)

    until(came, f"the {what} of c at {at}")


@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize("rounds", [4, 2])
@pytest.mark.parametrize("what", ["update", "vote", "both"])
def test_what_reached_one_only_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, first: str, rounds: int
) -> None:
    """Of an update the privacy is paid for: it counts if any member of the next view holds it.
    After the last vote ``first`` went on to round 3, or has closed all, and the other has yet to
    close round 2. After both, ``first`` misses nothing of c and yet has to go on without it."""
    town = town_of(tmp_path, rounds=rounds)
    reaches_only(town, monkeypatch, what, first)
    begin(town)
    town.wait()
    rest = [[1, 2]] * (rounds - 2)
    assert alike(ended(town, "ab"), after([1, 2, 3], [1, 2, 3], *rest))


def two_updates(town: Town) -> type[Link]:
    """c tells a one thing in round 2 and b another."""

    class Lying(QuickLink):
        def offer(self, outgoing: Any, to: Any = None) -> None:
            if outgoing.offer.round != 2:
                super().offer(outgoing, to)
            else:
                super().offer(outgoing, to=["a"])
                super().offer(other_update(town, outgoing), to=["b"])

    return Lying


def other_update(town: Town, outgoing: Any) -> Any:
    specs = outgoing.offer.manifest.tensors
    tensors = {name: value + 1 for name, value in unpack(outgoing.payload, specs).items()}
    payload = pack(tensors)
    manifest = manifest_of(payload, describe(tensors))
    sign = town.secrets["c"].sign
    offer = msgspec.structs.replace(outgoing.offer, manifest=manifest)
    offer = msgspec.structs.replace(offer, signature=sign(offer.message()))
    offer = msgspec.structs.replace(offer, entry_signature=sign(offer.entry.message()))
    return Outgoing(offer, payload)


def test_a_party_that_signs_two_updates_is_named_by_all_and_left_out(tmp_path: Path) -> None:
    """The votes show both signatures: neither a nor b is taken for the liar."""
    town = town_of(tmp_path)
    town.spokesman = two_updates(town)
    begin(town)
    town.wait("a", "b")
    assert alike(ended(town, "ab"), after([1, 2, 3], *[[1, 2]] * 3))
    for name in "ab":
        with RunFolder.read_only(town.folders[name]) as folder:
            assert folder.quarantined == {"c": "signed two different updates for round 2"}
            (row,) = [e for e in folder.evidence() if e.party == "c"]
            lie = decode_lie(row.body)
        assert (lie.party, lie.round) == ("c", 2)
        assert lie.one[0] != lie.other[0]
        assert [fault["peer"] for fault in town.rejected[name]] == ["c"]


def wrong_vote(town: Town) -> type[Link]:
    """c votes for something else in round 2."""

    class Lying(QuickLink):
        def vote(self, round: int, body: bytes, signature: bytes) -> None:
            if round == 2:
                body = encode_vote(msgspec.structs.replace(decode_vote(body), aggregate=b"?" * 32))
                signature = town.secrets["c"].sign(vote_message(body))
            super().vote(round, body, signature)

    return Lying


def test_a_vote_that_contradicts_the_inputs_costs_its_voter_the_federation(tmp_path: Path) -> None:
    town = town_of(tmp_path)
    town.spokesman = wrong_vote(town)
    begin(town)
    town.wait("a", "b")
    # Its update of round 2 was admitted and is held by both: it counts.
    assert alike(ended(town, "ab"), after([1, 2, 3], [1, 2, 3], [1, 2], [1, 2]))
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert "its vote contradicts the stored inputs" in folder.quarantined["c"]


def test_who_leaves_is_not_waited_for(tmp_path: Path) -> None:
    """No patience at all is set: a goodbye is enough."""
    town = town_of(tmp_path)
    town.learners["c"] = Leaver(3.0, last=2)
    begin(town, patience=0.0)
    town.wait()
    assert town.endings["c"].outcome == "alone"
    assert alike(ended(town, "ab"), after([1, 2, 3], *[[1, 2]] * 3))


def test_whoever_comes_back_takes_over_what_was_agreed_and_is_a_member_again(
    tmp_path: Path,
) -> None:
    town = town_of(tmp_path, rounds=10)
    dies_in(town, "c", 2)

    def hold(round: int) -> None:
        """c is started again in round 4. From round 6 on, a does not end its training before c
        has asked to take part in that round, or takes part."""
        if round == 4:
            town.wait("c")
            DEAD.clear()
            town.learners["c"] = AddingLearner(3.0)
            begin(town, "c")
        if round >= 6:
            until(lambda: views_of(town, "a")[-1] == ["a", "b", "c"] or asked(round), "c")

    def asked(round: int) -> bool:
        with RunFolder.read_only(town.folders["c"]) as folder:
            return any((row.party, row.round) == ("c", round) for row in folder.statements())

    town.learners["a"].crash = hold
    begin(town)
    town.wait("a", "b")
    town.wait("c")
    names = "abc"
    for name in names:
        assert not isinstance(town.endings[name], BaseException), town.endings[name]
    assert len({digest(town.endings[name].shared) for name in names}) == 1, town.endings
    assert all(town.endings[name].outcome == "done" for name in names)
    outcomes = [row["outcome"] for row in town.history("c")]
    assert "missed" in outcomes
    assert outcomes[-1] == "agreed"
    views = views_of(town, "a")
    assert (views[0], views[-1]) == (["a", "b"], ["a", "b", "c"])


@pytest.mark.parametrize("point", ["save_statement", "save_vote", "close_round", "release"])
@pytest.mark.parametrize("before", [True, False])
def test_a_member_that_crashes_while_views_change_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, before: bool
) -> None:
    """c is gone for good; b crashes at this step of the first round without c, and goes on."""
    town = town_of(tmp_path)
    dies_in(town, "c", 2)
    real = getattr(RunFolder, point)
    dead = []

    def dying(self: RunFolder, *args: Any, **kwargs: Any) -> Any:
        row = args[0] if args else None
        round = kwargs.get("round", getattr(row, "round", row))
        due = self.party == "b" and round == 2 and not dead
        if due and before:
            dead.append(point)
            town.kill("b")
            raise PowerCut
        result = real(self, *args, **kwargs)
        if due:
            dead.append(point)
            town.kill("b")
            raise PowerCut
        return result

    monkeypatch.setattr(RunFolder, point, dying)
    begin(town)
    town.wait("b", "c")
    assert isinstance(town.endings["b"], PowerCut), town.endings["b"]
    town.learners["b"] = AddingLearner(2.0)
    begin(town, "b")
    town.wait()
    assert alike(ended(town, "ab"), after([1, 2, 3], *[[1, 2]] * 3))


def test_a_folder_put_back_between_two_votes_of_one_round_is_noticed(tmp_path: Path) -> None:
    """a voted in view 0 and then in view 1; its folder knows of the first vote alone."""
    town, run = town_of(tmp_path), b"r" * 32
    sign = town.secrets["a"].sign
    votes = [
        encode_vote(
            make_vote(
                run=run, round=1, party="a", inputs={}, excluded={}, aggregate=b"g" * 32, view=view
            )
        )
        for view in (0, 1)
    ]
    signed = [(body, sign(vote_message(body))) for body in votes]
    with RunFolder.open(tmp_path / "a", party="a", contract=town.terms.contract) as folder:
        folder.fix_run(run, {name: name.encode() * 16 for name in "bc"})
        body, signature = signed[0]
        folder.save_vote(round=1, view=0, party="a", body=body, signature=signature)
        for held in signed:
            greeting = town.greeting("b", b"b" * 16, 1)
            greeting = msgspec.structs.replace(greeting, votes_held={"a": held})
            with nullcontext() if held == signed[0] else pytest.raises(FolderDiverged, match="put"):
                check_own_past("b", greeting, run=run, terms=town.terms, folder=folder)
