"""`splitfed verify` where parties were away: what a view explains is no fault, what it does not is.

Three parties, eight rounds: c dies in round 2, a and b go on without it, and c comes back.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from splitfed.rounds.schedule import trained
from splitfed.run.crosscheck import check_folders
from splitfed.run.facts import read_facts
from splitfed.run.results import standing_row, voids_in
from splitfed.store import RunFolder
from splitfed.transport.events import Outgoing
from splitfed.transport.link import Link
from tests.support.hostile import until
from tests.support.members import AddingLearner, Town, make_terms
from tests.support.quick import DEAD, PowerCut, begin, dies_in, town_of, unhurried
from tests.support.tampering import edit

NAMES, ROUNDS = "abc", 8


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        unhurried(patch)
        came_back(path)
    return path


def came_back(path: Path) -> None:
    """The run that all tests look at."""
    town = town_of(path, NAMES, ROUNDS)
    back = threading.Event()

    def returns(round: int) -> None:
        if round == 6:
            back.set()

    def brings_back(round: int) -> None:
        """c is started again in round 4, and a trains round 6 once c does so too."""
        if round == 4:
            town.wait("c")
            DEAD.discard("c")
            town.learners["c"] = AddingLearner(3.0)
            town.learners["c"].crash = returns
            begin(town, "c")
        if round == 6:
            assert back.wait(30)

    dies_in(town, "c", 2)
    town.learners["a"].crash = brings_back
    begin(town)
    town.wait("a", "b")
    town.wait("c")
    for name in NAMES:
        ending = town.endings[name]
        assert not isinstance(ending, BaseException), ending
        assert ending.outcome == "done"


@pytest.fixture
def three(original: Path, tmp_path: Path) -> Path:
    for name in NAMES:
        shutil.copytree(original / name, tmp_path / name)
    return tmp_path


def faults(path: Path, *names: str) -> list[str]:
    found = check_folders([path / name for name in names])
    return [f"{it.facts.party}: {fault}" for it in found for fault in it.faults]


def missed_in(path: Path) -> list[int]:
    return [row.round for row in read_facts(path / "c").closed if row.outcome == "missed"]


def test_who_was_away_and_who_went_on_are_no_fault_alone_or_together(original: Path) -> None:
    assert missed_in(original)
    assert faults(original, *NAMES) == []
    for name in NAMES:
        assert faults(original, name) == []
    assert faults(original, "a", "c") == []


def test_a_missed_round_without_the_others_votes_is_no_fault(three: Path) -> None:
    round = missed_in(three)[-1]
    edit(three / "c", "DELETE FROM votes WHERE round = ?", round)
    assert faults(three, "c") == []


@pytest.mark.parametrize("party", ["a", "b"])
def test_a_vote_of_a_member_of_the_view_that_closed_a_round_is_missed(
    three: Path, party: str
) -> None:
    edit(three / "a", "DELETE FROM votes WHERE round = 3 AND party = ?", party)
    assert [f for f in faults(three, "a") if "round 3: the vote of" in f]


def test_a_vote_of_one_that_was_left_out_is_not_needed(three: Path) -> None:
    edit(three / "a", "DELETE FROM votes WHERE round = 3 AND party = 'c'")
    assert faults(three, "a") == []


def note(path: Path, members: list[str]) -> None:
    """Write other members into the first view."""
    with RunFolder.read_only(path) as view:
        rows = [msgspec.structs.replace(view.views[0], members=members), *view.views[1:]]
    edit(path, "UPDATE meta SET value = ? WHERE key = 'views'", msgspec.msgpack.encode(rows))


@pytest.mark.parametrize(
    ("members", "told"),
    [
        (["a"], ": 1 members, and 2 are agreed at least"),
        (["b", "c"], ": its members b, c are not those of this federation"),
        (["a", "x"], ": its members a, x are not those of this federation"),
        (["a", "b", "c"], "round 3: the vote of c is missing"),
    ],
)
def test_a_view_that_was_written_in_afterwards_does_not_excuse_a_vote(
    three: Path, members: list[str], told: str
) -> None:
    note(three / "a", members)
    assert any(told in fault for fault in faults(three, "a")), faults(three, "a")


def test_a_statement_that_was_changed_is_named(three: Path) -> None:
    assert edit(three / "a", "UPDATE statements SET signature = zeroblob(64) WHERE party = 'b'")
    found = faults(three, "a")
    assert [f for f in found if "the statement of b for view" in f and "not signed by b" in f]


def test_what_was_taken_over_is_compared_with_what_the_others_closed(three: Path) -> None:
    last = missed_in(three)[-1]
    edit(three / "c", "UPDATE closed SET digest = zeroblob(32) WHERE outcome = 'missed'")
    found = [f for f in faults(three, "a", "c") if "left the shared tensors" in f]
    assert [f.split(":")[1] for f in found] == [f" round {last}"]
    assert faults(three, "c") == [], "alone nothing tells"


def test_a_round_that_an_earlier_view_closed_needs_no_vote_of_the_later_one(three: Path) -> None:
    """a voted once more in view 1, and then all votes of view 0 were there."""
    row = next(v for v in read_facts(three / "a").votes if (v.round, v.party) == (1, "a"))
    edit(three / "a", "INSERT INTO votes VALUES (1, 1, 'a', ?, ?)", row.body, row.signature)
    assert faults(three, "a") == []
    edit(three / "a", "DELETE FROM votes WHERE round = 1 AND view = 0 AND party = 'c'")
    assert any("round 1: the vote of" in fault for fault in faults(three, "a"))


def test_votes_are_compared_within_their_view(three: Path) -> None:
    """In one folder alone lies a vote of c in a later view: nothing is wrong with that."""
    facts = read_facts(three / "a")
    row = next(vote for vote in facts.votes if (vote.round, vote.party) == (1, "a"))
    new = "INSERT INTO votes VALUES (1, 1, 'a', ?, ?)"
    edit(three / "b", new, row.body + b" ", row.signature)
    assert not [f for f in faults(three, "a", "b") if "different votes" in f]
    edit(three / "b", "DELETE FROM votes WHERE view = 1 AND round = 1")
    changed = "UPDATE votes SET body = ? WHERE round = 1 AND party = 'a' AND view = 0"
    edit(three / "b", changed, row.body + b" ")
    assert [f for f in faults(three, "a", "b") if "different votes of a" in f]


def test_an_entry_of_a_round_in_which_both_took_part_is_missed(three: Path) -> None:
    """That entries may be missing where a party was away excuses no other."""
    edit(three / "a", "DELETE FROM witnessed WHERE party = 'b' AND round = 3")
    found = faults(three, "a")
    assert any("entry 3 of the ledger of b is missing before entry 4" in f for f in found)
    assert any("what b sent in round 3" in f for f in found)


def test_a_receipt_of_a_member_is_missed_and_that_of_an_absent_one_is_not(three: Path) -> None:
    (it,) = check_folders([three / "a"])
    assert (3, ("c",)) in [(row.row.round, peers) for row, peers in it.unacknowledged]
    edit(three / "a", "DELETE FROM receipts WHERE number = 3 AND peer = 'b'")
    (fault,) = faults(three, "a")
    assert "row 3 (round 3, update): no receipt of b, and only the last row may be" in fault


def test_a_receipt_that_was_not_there_when_its_party_was_left_out_is_forgiven(three: Path) -> None:
    """c's next release is that of a later round: nobody knows when the others lost what it sent."""
    facts = read_facts(three / "c")
    first, second, *_ = [entry.row.round for entry in facts.rows or ()]
    assert (first, second > 2) == (1, True)
    edit(three / "c", "DELETE FROM receipts WHERE number = 1 AND peer = 'b'")
    assert faults(three, "c") == []


def test_an_update_that_was_passed_on_came_without_an_entry_and_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c's update of round 2 reaches a alone, which passes it on to b; then c is gone."""
    unhurried(monkeypatch)
    town = town_of(tmp_path, NAMES, rounds=3)
    real = Link.offer

    def offer(self: Link, outgoing: Outgoing, to: Sequence[str] | None = None) -> None:
        last = (outgoing.offer.party, outgoing.offer.round) == ("c", 2)
        real(self, outgoing, to=["a"] if last else to)
        if last:
            until_there(tmp_path / "a")
            town.kill("c")
            DEAD.add("c")
            raise PowerCut

    monkeypatch.setattr(Link, "offer", offer)
    begin(town)
    town.wait()
    facts = read_facts(tmp_path / "b")
    assert ("c", 2) in [(row.party, row.round) for row in facts.inputs]
    assert ("c", 2) not in [(w.entry.party, w.entry.round) for w in facts.witnessed or ()]
    assert faults(tmp_path, "a", "b") == []
    edit(tmp_path / "a", "DELETE FROM witnessed WHERE party = 'b' AND round = 2")
    assert any("what b sent in round 2" in fault for fault in faults(tmp_path, "a"))


def until_there(path: Path) -> None:
    """c's update of round 2 is in this folder."""

    def came() -> bool:
        with RunFolder.read_only(path) as folder:
            return any(row.party == "c" for row in folder.inputs(2))

    until(came, "the update of c")


def test_the_report_tells_from_which_round_on_who_voted(three: Path) -> None:
    terms = make_terms(list(NAMES), Town(three / "t", list(NAMES)).secrets, rounds=ROUNDS)
    with RunFolder.open(three / "a", party="a", contract=terms.contract) as folder:
        folder.quarantine("c", "lied")
        found = standing_row(terms, folder)
        kinds = [row["kind"] for row in folder.history()]
    first, *_, last = found["views"]
    assert (first["round"], first["members"], first["left_out"]) == (2, ["a", "b"], ["c"])
    assert (last["members"], last["left_out"]) == (list(NAMES), [])
    assert first["view"] < last["view"]
    assert 4 <= last["round"] <= trained(kinds)
    assert found["quarantined"] == [{"peer": "c", "reason": "lied"}]


def test_void_rounds_among_the_missed_ones_count_as_the_others_counted_them() -> None:
    rows = [
        {"outcome": "void"},
        {"outcome": "missed", "voids": 3},
        {"outcome": "missed", "voids": 3},
        {"outcome": "agreed"},
        {"outcome": "void"},
    ]
    assert voids_in(rows) == 4
