"""One party's part in the views, alone with its folder: what it signs, waits for, passes on and
takes over."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest

from splitfed.errors import FolderDiverged, ProtocolViolation
from splitfed.rounds.pace import QUICK, Pace
from splitfed.rounds.place import Place
from splitfed.rounds.receipts import Receipts
from splitfed.rounds.serving import Serving
from splitfed.rounds.statements import check_statement, decode_statement
from splitfed.rounds.terms import UPDATE
from splitfed.rounds.views import LEAP, MOST_ALONE
from splitfed.tensors import digest
from splitfed.transport.events import STATE, Offer
from splitfed.transport.keys import make_secret
from tests.support.folders import payload_of, row_of, sign
from tests.support.members import INITIAL, AddingLearner
from tests.support.one import RUN, SECRETS, TERMS, One, shown, update, vote, word

# --- what it signs ---------------------------------------------------------------------


def test_a_statement_is_durable_before_anybody_hears_of_it(one: One) -> None:
    assert one.membership.consider({"c"})
    assert [origin for origin, _ in one.link.said("view")] == ["a"]
    assert one.link.durable == [1]


def test_a_statement_carries_the_signed_vote_and_all_that_is_held(one: One) -> None:
    for name in "abc":
        one.holds(name)
    one.votes(vote("a", 0, "abc"))
    one.membership.consider({"c"})
    ((_, body),) = one.link.said("view")
    said = decode_statement(body)
    check_statement(said, origin="a", run=RUN, terms=TERMS, kinds=())
    assert said.members == ("a", "b")
    assert said.cast == vote("a", 0, "abc")
    assert [(party, root) for party, root, _ in said.inputs] == [(n, shown(n)[0]) for n in "abc"]


def test_the_vote_of_the_highest_view_is_the_one_that_counts(one: One) -> None:
    one.votes(vote("a", 2, "ab"))
    one.votes(vote("a", 0, "abc"))
    one.membership.consider({"c"})
    ((_, body),) = one.link.said("view")
    assert decode_statement(body).cast == vote("a", 2, "ab")


def test_with_a_statement_goes_what_made_the_view_of_the_vote_in_it(one: One) -> None:
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab"))
    one.votes(vote("a", 1, "ab"))
    one.link.notes.clear()
    one.membership.consider({"b"})
    said = [decode_statement(body) for _, body in one.link.said("view")]
    assert [(it.party, it.view) for it in said] == [("a", 1), ("b", 1), ("a", 2)]


def test_too_few_sign_nothing(one: One) -> None:
    assert not one.membership.consider({"b", "c"})
    assert one.link.notes == []


def test_while_others_are_ahead_nothing_is_signed(one: One) -> None:
    """What they closed has to come first; then this party asks to be a member again."""
    for name in "bc":
        one.hears(word(name, 1, "bc", round=3))
    assert one.membership.views.without_me is not None
    assert one.membership.consider(())
    assert one.link.said("view") == []


def test_left_out_of_the_open_round_a_view_with_all_is_asked_for(one: One) -> None:
    for name in "bc":
        one.hears(word(name, 1, "bc"))
    assert one.membership.consider(())
    assert decode_statement(one.link.said("view")[-1][1]).members == ("a", "b", "c")


def test_whoever_was_left_out_is_tried_again_where_too_few_are_left(one: One) -> None:
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab"))
    assert one.membership.peers == ["b"]
    assert one.membership.alive(()) == {"a", "b"}
    assert one.membership.alive({"b"}) == {"a", "c"}


def test_who_answers_every_list_with_another_is_not_asked_any_more(one: One) -> None:
    for number in range(1, MOST_ALONE + 1):
        one.hears(word("c", number, "ac" if number % 2 else "bc"))
    assert one.membership.alive(()) == {"a", "b", "c"}
    one.hears(word("c", MOST_ALONE + 1, "bc"))
    assert one.membership.alive(()) == {"a", "b"}
    # Where too few are left without it, it is better than nobody.
    assert one.membership.alive({"b"}) == {"a", "c"}


# --- when it must wait -----------------------------------------------------------------


def test_nothing_is_released_before_a_signed_view_is_made(one: One) -> None:
    assert one.membership.entry() == []
    one.membership.consider({"c"})
    assert one.membership.entry() == ["b"]
    assert one.membership.missing_inputs() == ["b"]
    one.hears(word("b", 1, "ab"))
    assert one.membership.entry() == []


def test_nothing_is_released_in_a_round_that_others_say_is_closed(one: One) -> None:
    """Unless they say nothing more of it: then they may have lied."""
    assert one.membership.awaited_before_release() == []
    one.membership.claims.closed["b"] = 1
    assert one.membership.awaited_before_release() == ["b"]
    one.membership.consider({"b"})
    one.hears(word("c", 1, "ac"))
    assert one.membership.awaited_before_release() == []


def test_what_closes_the_round_is_enough(one: One) -> None:
    one.membership.claims.closed["b"] = 1
    for name in "abc":
        one.votes(vote(name, 0, "abc"))
    assert one.membership.awaited_before_release() == []


def test_with_the_votes_that_close_the_round_no_signature_is_awaited(one: One) -> None:
    """A member that came back with a view half made: the round was closed in the one before."""
    one.membership.consider({"c"})
    assert one.membership.entry() == ["b"]
    for name in "abc":
        one.votes(vote(name, 0, "abc"))
    assert one.membership.entry() == []
    # What came of it cannot be computed before all is here.
    assert one.membership.missing_inputs() == ["b", "c"]


def test_an_update_that_nobody_shows_is_awaited_of_its_party(one: One) -> None:
    """It was shown by this party alone, which lost it: some mail has to bring it."""
    one.holds("c")
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab"))
    for name in "ab":
        one.holds(name)
    del one.book.inputs["c"]
    assert one.membership.missing_inputs() == ["c"]


def test_a_member_signs_no_faster_than_that(one: One, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often the others seem to come and go."""
    monkeypatch.setattr(one.membership, "pace", Pace(lambda: 1.0))
    for turn in range(QUICK):
        one.membership.consider("bc"[turn % 2])
    assert one.membership.views.signed == QUICK
    assert one.membership.consider("bc"[QUICK % 2])
    assert one.membership.views.signed == QUICK


def test_an_own_statement_that_was_crowded_out_is_no_sign_of_another_folder(one: One) -> None:
    first = word("a", 1, "ab")
    for number in range(1, LEAP + 3):
        one.membership.views.hear(word("a", number, "ab" if number % 2 else "ac"))
    assert one.membership.views.word(1, "a") is None
    one.hears(first, peer="c")
    with pytest.raises(FolderDiverged):
        one.hears(word("a", LEAP + 2, "abc"), peer="c")
    with pytest.raises(FolderDiverged):
        one.hears(word("a", LEAP + 3, "ab"), peer="c")


def test_an_update_of_mine_that_i_never_released_is_due_from_who_shows_it(one: One) -> None:
    """A thief signed it with my key: nothing that I send can take its place."""
    one.holds("a")
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab", cast=vote("b", 0, "abc", faces={"a": 1})))
    one.holds("b")
    one.holds("c")
    assert one.membership.missing_inputs() == ["b"]


def test_nothing_is_released_by_one_that_is_left_out(one: One) -> None:
    for name in "bc":
        one.hears(word(name, 1, "bc"))
    assert one.membership.entry() == ["b", "c"]


def test_no_vote_is_awaited_in_a_view_that_was_given_up(one: One) -> None:
    own = vote("a", 0, "abc")
    one.votes(own)
    assert one.membership.missing_votes(own) == ["b", "c"]
    one.membership.consider({"c"})
    assert one.membership.missing_votes(own) == []


def test_no_vote_is_awaited_once_one_contradicts(one: One) -> None:
    own = vote("a", 0, "abc")
    one.votes(own)
    one.votes(vote("b", 0, "abc", faces={"c": 1}))
    assert one.membership.missing_votes(own) == []


def test_an_update_that_does_not_count_any_more_is_not_released(one: One) -> None:
    """b and c may have closed the round without it."""
    assert one.membership.counts()
    for name in "bc":
        one.hears(word(name, 2, "abc", cast=vote(name, 1, "bc")))
    one.hears(word("b", 1, "bc"))
    one.hears(word("c", 1, "bc"))
    one.membership.consider(())
    assert one.membership.views.current.members == ("a", "b", "c")
    assert not one.membership.counts()
    # Neither b nor c may bring its update any more: whoever has them is asked.
    assert one.membership.missing_inputs() == ["b", "c"]
    assert one.entrance.asked == {(name, shown(name)[0]) for name in "bc"}


def test_the_update_of_one_that_is_gone_is_due_from_the_others(one: One) -> None:
    one.holds("a")
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab", holds={"b": 0, "c": 0}))
    one.holds("b")
    assert one.membership.missing_inputs() == ["b"]
    one.holds("c")
    assert one.membership.missing_inputs() == []


# --- what it passes on -----------------------------------------------------------------


def test_what_one_outside_released_is_passed_on_to_the_members(one: One) -> None:
    for name in "abc":
        one.holds(name)
    one.membership.consider({"c"})
    assert one.link.passed == []
    one.hears(word("b", 1, "ab"))
    assert one.link.passed == [("c", update("c")[1], ("b",))]


def test_whoever_is_behind_is_told_all_that_closed_the_round(one: One) -> None:
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab"))
    for name in "ab":
        one.votes(vote(name, 1, "ab"))
    one.closes(1)
    one.link.notes.clear()
    one.membership.serve("c")
    to_c = [(round, origin, kind) for round, origin, kind, _, to in one.link.notes if to == ("c",)]
    views, votes = ([(r, name, kind) for name in "ab"] for r, kind in ((2, "view"), (1, "vote")))
    assert to_c == [*views, *votes]
    assert one.link.offered == [(STATE, ("c",))]


def test_the_own_vote_comes_first_for_the_others_are_held_to_it(one: One) -> None:
    for name in "abc":
        one.votes(vote(name, 0, "abc"))
    one.closes(1)
    link: Any = one.link
    serving = Serving(
        terms=TERMS, party="b", folder=one.folder, link=link, signer=SECRETS["b"],
        views=one.membership.views,
    )  # fmt: skip
    serving.agreed = RUN, INITIAL
    serving.serve("c")
    assert [origin for _, origin, kind, _, _ in one.link.notes if kind == "vote"] == ["b", "a", "c"]


def test_whoever_voted_in_a_view_that_was_given_up_needs_the_tensors(one: One) -> None:
    """a and b voted once more without c, which cannot close the round on its own vote."""
    for name in "abc":
        one.votes(vote(name, 0, "abc"))
    for name in "ab":
        one.votes(vote(name, 1, "abc"))
    one.closes(1)
    for name in "bc":
        one.membership.serve(name)
    assert one.link.offered == [(STATE, ("c",))]


def test_whoever_voted_itself_needs_no_tensors(one: One) -> None:
    for name in "abc":
        one.votes(vote(name, 0, "abc"))
    one.closes(1)
    one.membership.serve("c")
    assert [origin for origin, _ in one.link.said("vote")] == ["a", "b", "c"]
    assert one.link.offered == []


def test_whoever_is_gone_is_served_nothing(one: One) -> None:
    for name in "ab":
        one.votes(vote(name, 1, "ab"))
    one.closes(1)
    one.membership.quarantine("c", "lied")
    one.membership.serve("c")
    assert one.link.notes == []


def test_after_a_restart_what_was_signed_counts_and_is_said_again(one: One) -> None:
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab"))
    one.membership.consider({"b"})
    said = dict.fromkeys(body for _, body in one.link.said("view"))
    assert len(said) == 3
    one.folder.close()
    again = One(one.folder.path)
    views = again.membership.views
    assert (views.current.number, views.signed, again.membership.entry()) == (1, 2, ["c"])
    spoken = again.link.said("view")
    assert {body for _, body in spoken} == set(said)
    again.folder.close()


def test_after_a_restart_what_a_key_signed_that_was_revoked_since_makes_no_view(one: One) -> None:
    """Its party says it again under its new key. What was handed over in good order counts."""
    one.membership.consider({"c"})
    one.hears(word("b", 1, "ab"))
    old = {"b": (SECRETS["b"].signing_public,)}
    keys = {**TERMS.signing_keys, "b": make_secret().signing_public}
    now = dataclasses.replace(TERMS, signing_keys=keys)
    for terms, number in (
        (dataclasses.replace(now, retired_keys=old), 1),
        (dataclasses.replace(now, revoked_keys=old), 0),
    ):
        made = one.member(terms)
        assert (made.views.current.number, made.views.signed) == (number, 1)


# --- what it owes and takes over -------------------------------------------------------


def test_only_members_that_voted_on_a_release_owe_its_receipt(one: One) -> None:
    receipts = Receipts(terms=TERMS, party="a", folder=one.folder, signer=SECRETS["a"])
    manifest, payload = payload_of(1.0)
    one.folder.release(row_of(manifest, 1), payload, manifest, sign=sign)
    assert receipts.owed(2, "bc") == []
    for name in "ab":
        one.votes(vote(name, 1, "ab"))
    assert receipts.owed(2, "bc") == ["b"]
    assert receipts.owed(2, "c") == []
    assert receipts.owed(1, "bc") == []


def test_entries_may_be_missing_and_never_go_back(one: One) -> None:
    """Those of rounds that were closed without one of the two are not here."""
    receipts = Receipts(terms=TERMS, party="a", folder=one.folder, signer=SECRETS["a"])

    def entry(number: int, round: int) -> Offer:
        return msgspec.structs.replace(update("b")[0], number=number, round=round)

    for number, round in ((1, 1), (4, 3)):
        receipts.check(entry(number, round))
        receipts.keep(entry(number, round), stored=True)
    receipts.check(entry(6, 4))
    for number in (2, 3):  # of rounds that were closed without a, and come late
        receipts.check(entry(number, 2))
    receipts.keep(entry(2, 2), stored=False)
    newest = one.folder.last_witnessed("b")
    assert newest is not None
    assert newest.entry.number == 4
    for number, round, says in (
        (3, 4, "entry 3 of its ledger for round 4 where entry 5 is the next"),
        (5, 3, "shows round 3 as entry 5 of its ledger, after round 3"),
        (4, 2, "two different entries number 4"),
    ):
        with pytest.raises(ProtocolViolation, match=says):
            receipts.check(entry(number, round))


def test_void_rounds_that_others_counted_are_counted_here(one: One) -> None:
    """Durably: they end the federation for all at the same time."""
    place = Place(terms=TERMS, g=dict(INITIAL))
    said = msgspec.structs.replace(vote("b", 1, "bc"), round=2, shared=digest(INITIAL), voids=2)
    learner: Any = AddingLearner(1.0)
    place.miss(said, dict(INITIAL), one.folder, learner)
    assert (place.voids, place.closed) == (2, 2)
    place.close(UPDATE, "void")
    assert place.voids == 3
    again = Place(terms=TERMS, g=dict(INITIAL))
    again.resume(one.folder, learner)
    assert (again.voids, again.closed) == (2, 2)
