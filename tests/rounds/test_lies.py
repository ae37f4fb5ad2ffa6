"""What one party believes of what others sign, and whom it takes for the liar."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from splitfed.errors import FolderDiverged
from splitfed.rounds.book import Book
from splitfed.rounds.statements import Lie, decode_lie, decode_statement, proven
from splitfed.rounds.terms import UPDATE
from splitfed.rounds.views import LEAP
from splitfed.rounds.violations import Violation
from tests.support.members import INITIAL
from tests.support.one import RUN, TERMS, One, later_vote, noted, shown, vote, word

# --- what it believes ------------------------------------------------------------------


def test_a_statement_of_another_is_durable(one: One) -> None:
    one.hears(word("b", 1, "ab"))
    assert [row.party for row in one.folder.statements()] == ["b"]


def test_an_own_statement_that_the_folder_lacks_tells_that_it_was_put_back(one: One) -> None:
    one.membership.consider({"c"})
    for _, body in one.link.said("view"):
        one.hears(decode_statement(body), peer="b")
    with pytest.raises(FolderDiverged, match="was it restored from a backup"):
        one.hears(word("a", 2, "ab"), peer="b")


def test_two_lists_for_one_number_are_a_lie_and_kept(one: One) -> None:
    one.hears(word("b", 1, "ab"))
    with pytest.raises(Violation, match="b: .*two different lists of members for view 1"):
        one.hears(word("b", 1, "bc"))
    assert {row.party for row in one.folder.evidence()} == {"b"}


def test_a_vote_inside_that_contradicts_the_one_that_came_before_is_a_lie(one: One) -> None:
    one.book.add_vote(vote("b", 0, "abc"))
    one.hears(word("b", 1, "ab", cast=vote("b", 0, "abc")))
    with pytest.raises(Violation, match="b: .*two different votes for round 1"):
        one.hears(word("b", 2, "ab", cast=vote("b", 0, "abc", faces={"b": 1})))


def test_the_newest_statements_of_a_party_are_kept_and_none_is_held_against_it(one: One) -> None:
    """In memory and on disk, for whatever it signs; those of views that were made stay."""
    for name in "bc":
        one.hears(word(name, 1, "bc"))
    for number in range(2, LEAP + 12):
        one.hears(word("b", number, "bc" if number % 2 else "ab"))
    kept = [row.view for row in one.folder.statements() if row.party == "b"]
    assert kept == [1, *range(12, LEAP + 12)]
    assert one.membership.views.word(11, "b") is None
    one.hears(word("b", 11, "ab"))
    assert [row.view for row in one.folder.statements() if row.party == "b"] == kept
    assert one.membership.quarantined == {}


def test_a_lie_of_one_that_is_out_already_is_not_kept_again(one: One) -> None:
    one.membership.quarantine("b", "lied")
    one.hears(word("b", 1, "ab"), peer="c")
    one.hears(word("b", 1, "bc"), peer="c")
    assert one.folder.evidence() == ()


@pytest.mark.parametrize("kind", ["view", "evidence"])
def test_what_cannot_be_read_or_is_of_another_run_is_the_fault_of_who_passes_it_on(
    one: One, kind: Any
) -> None:
    """Whoever signed it may have signed it in a run of its own with the same keys."""
    said = of_c() if kind == "evidence" else word("b", 1, "ab")
    elsewhere = msgspec.msgpack.encode(msgspec.structs.replace(said, run=b"x" * 32))
    for body in (b"?", elsewhere):
        with pytest.raises(Violation, match="^c: "):
            one.membership.noted(noted(kind, body, "b", "c"))
    assert one.folder.statements() == ()


@pytest.mark.parametrize(
    "changes",
    [{"round": 1 << 63}, {"round": 0}, {"run": b"r"}, {"kind": "k" * 300}, {"one": (b"r", b"s")}],
    ids=str,
)
def test_evidence_that_no_folder_could_keep_is_its_senders_fault(
    one: One, changes: dict[str, Any]
) -> None:
    body = msgspec.msgpack.encode(of_c(**changes))
    with pytest.raises(Violation, match="b: evidence that cannot be read"):
        one.membership.noted(noted("evidence", body, "b"))


def test_a_statement_that_no_honest_party_signs_is_refused(one: One) -> None:
    with pytest.raises(Violation, match="b: .*of 1 members"):
        one.hears(word("b", 1, "b"))
    with pytest.raises(Violation, match="b: .*another run or party"):
        one.hears(word("c", 1, "bc"), of="b")
    assert one.folder.statements() == ()


def seen(one: One) -> list[tuple[str, int]]:
    """Whose statements were taken in, by view."""
    return [(row.party, row.view) for row in one.folder.statements()]


def test_a_vote_of_a_view_that_nobody_made_brings_nobody_to_anything(one: One) -> None:
    """The view may come to be known; the newest word of its party then counts."""
    for name in "abc":
        one.holds(name)
    made_up = vote("c", 1, "c")
    one.hears(word("c", 2, "abc", cast=made_up))
    one.hears(word("c", 3, "abc", cast=vote("c", 1, "bc")))
    one.hears(word("c", 2, "abc", cast=made_up), peer="b")  # the older one, passed on
    assert seen(one) == []
    assert one.membership.quarantined == {}
    one.hears(word("b", 1, "bc"))
    assert seen(one) == [("b", 1)]
    one.hears(word("c", 1, "bc"))
    assert seen(one) == [("b", 1), ("c", 1), ("c", 3)]


def test_a_vote_that_does_not_follow_from_its_view_is_not_heard(one: One) -> None:
    """b had voted on all three in view 0: so must c in view 1."""
    one.hears(word("b", 1, "bc", cast=vote("b", 0, "abc")))
    one.hears(word("c", 1, "bc"))
    for inputs, faces in (("c", {}), ("bc", {}), ("abc", {"a": 1})):
        one.hears(word("c", 2, "abc", cast=vote("c", 1, inputs, faces=faces)))
    assert seen(one) == [("b", 1), ("c", 1)]
    one.hears(word("c", 2, "abc", cast=vote("c", 1, "abc")))
    assert seen(one) == [("b", 1), ("c", 1), ("c", 2)]


def test_where_another_member_lied_its_view_may_look_different_to_each(one: One) -> None:
    one.hears(word("b", 1, "bc", cast=vote("b", 0, "abc")))
    one.hears(word("c", 1, "bc"))
    one.membership.quarantine("c", "lied itself")
    one.hears(word("c", 2, "abc", cast=vote("c", 1, "bc")), peer="b")
    assert seen(one) == [("b", 1), ("c", 1)]
    one.membership.quarantine("b", "lied")
    one.hears(word("c", 2, "abc", cast=vote("c", 1, "bc")), peer="b")
    assert seen(one) == [("b", 1), ("c", 1), ("c", 2)]


def test_words_of_a_later_round_are_looked_at_when_it_is_open(one: One) -> None:
    one.hears(word("c", 2, "abc", round=2, cast=later_vote("c", 1, "bc", 2)))
    assert seen(one) == []
    one.membership.open(Book(round=2), (UPDATE,), RUN, INITIAL)
    assert one.membership.ready() is None
    for name in "bc":
        one.hears(word(name, 1, "bc"))
    assert seen(one) == [("b", 1), ("c", 1), ("c", 2)]


def of_c(**changes: Any) -> Lie:
    said = Lie(RUN, 1, UPDATE, "c", *sorted((shown("c"), shown("c", 1))))
    return msgspec.structs.replace(said, **changes)


def convicted(one: One) -> bool:
    reason = one.membership.quarantined.get("c")
    assert one.folder.quarantined == ({"c": reason} if reason else {})
    kept = [decode_lie(row.body) for row in one.folder.evidence() if row.party == "c"]
    assert kept == ([of_c()] if reason else [])
    assert reason in (None, "signed two different updates for round 1")
    return reason is not None


def test_proof_of_a_lie_convicts_whoever_brings_it(one: One) -> None:
    one.membership.noted(noted("evidence", msgspec.msgpack.encode(of_c()), "b"))
    assert convicted(one)


def test_what_proves_nothing_is_a_lie_of_whoever_signed_it(one: One) -> None:
    same = msgspec.msgpack.encode(of_c(other=of_c().one))
    with pytest.raises(Violation, match="b: .*evidence against c that proves nothing"):
        one.membership.noted(noted("evidence", same, "b"))
    other_run = msgspec.msgpack.encode(of_c(run=b"x" * 32))
    one.membership.noted(noted("evidence", other_run, "b"))
    assert not convicted(one)


def test_two_updates_among_the_statements_of_a_view_are_shown_to_all(one: One) -> None:
    one.holds("c")
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab", holds={"c": 1}))
    assert convicted(one)
    ((_, body),) = one.link.said("evidence")
    assert proven(decode_lie(body), TERMS)
    assert one.membership.counts()
    assert one.book.demand is not None
    assert "c" not in one.book.demand.parties


def test_what_a_view_settled_takes_the_place_of_what_came_first(one: One) -> None:
    """c told a another update than b, and b has voted on its own."""
    one.holds("c", 1)
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab", cast=vote("b", 0, "abc")))
    assert convicted(one)
    assert "c" not in one.book.inputs
    assert one.folder.inputs(1) == ()
    assert ("c", shown("c")[0]) in one.entrance.asked


def test_a_different_update_of_a_third_is_its_lie_if_it_signed_both(one: One) -> None:
    own = vote("a", 0, "abc")
    one.votes(own)
    assert one.membership.contradicted(own) is None
    one.votes(vote("b", 0, "abc", faces={"c": 1}))
    reason = "signed two different updates for round 1"
    assert one.membership.contradicted(own) == ("c", reason)
    assert convicted(one)
    assert len(one.link.said("evidence")) == 1


@pytest.mark.parametrize("party", ["a", "c"])
def test_it_is_the_voters_lie_if_the_third_did_not(one: One, party: str) -> None:
    own, other = vote("a", 0, "abc"), vote("b", 0, "abc", faces={party: 1})
    if party != "a":  # its signature under that update is none
        offers = tuple((name, b"s" * 64 if name == party else s) for name, s in other.offers)
        other = msgspec.structs.replace(other, offers=offers)
    one.votes(own)
    one.votes(other)
    found = one.membership.contradicted(own)
    assert found is not None
    assert found[0] == "b"
    assert not convicted(one)
