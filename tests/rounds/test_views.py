"""Views: how they are made, what a party should sign next, and what must be voted on."""

from __future__ import annotations

import pytest

from splitfed.rounds.view import HIGHEST, Statement, View, demand_of, follows
from splitfed.rounds.views import LEAP, MOST_ALONE, Views
from splitfed.rounds.vote import decode_vote, encode_vote, make_vote

RUN = b"r" * 32


def root(party: str, face: int = 0) -> bytes:
    return f"{party}{face}".encode() * 16


def vote(party: str, view: int, inputs: str, *, face: int = 0, round: int = 1) -> bytes:
    return encode_vote(
        make_vote(
            run=RUN,
            view=view,
            round=round,
            party=party,
            inputs={name: root(name, face) for name in inputs},
            excluded={},
            aggregate=inputs.encode().ljust(32),
        )
    )


def word(
    party: str, view: int, members: str, *, round: int = 1, cast: bytes = b"", holds: str = ""
) -> Statement:
    inputs = tuple((name, root(name), root(name) * 2) for name in holds)
    return Statement(RUN, view, round, party, tuple(members), cast, b"", inputs)


def heard(party: str, *words: Statement, parties: str = "abc", minimum: int = 2) -> Views:
    views = Views(parties, party, minimum)
    for said in words:
        views.hear(said)
    return views


def view_of(*words: Statement) -> View:
    return View(words[0].view, words[0].members, {said.party: said for said in words})


# --- how a view is made ----------------------------------------------------------------


def test_at_first_all_parties_are_the_view() -> None:
    views = Views("cab", "b", 2)
    assert (views.current.number, views.current.members) == (0, ("a", "b", "c"))
    assert list(views.known) == [0]
    assert not views.pending
    assert views.mine is None
    assert views.unsigned == ()
    assert views.without_me is None


def test_a_view_exists_when_all_its_members_signed_it() -> None:
    views = heard("a", word("a", 1, "ab"))
    assert views.pending
    assert views.current.number == 0
    assert views.unsigned == ("b",)
    views.hear(word("b", 1, "ab"))
    assert not views.pending
    assert views.current.number == 1
    assert views.current.members == ("a", "b")
    assert views.current.round == 1
    assert sorted(views.known) == [0, 1]


@pytest.mark.parametrize("other", [word("b", 1, "bc"), word("b", 1, "ab", round=2)])
def test_words_for_another_list_or_round_make_no_view(other: Statement) -> None:
    assert heard("a", word("a", 1, "ab"), other).current.number == 0


def test_the_first_statement_for_a_number_counts_on() -> None:
    first = word("b", 1, "ab")
    views = heard("a", first)
    assert views.hear(first) is None
    assert views.hear(word("b", 1, "bc")) is first
    views.hear(word("a", 1, "ab"))
    assert views.current.members == ("a", "b")


def test_a_later_view_takes_the_place_of_an_earlier_one_and_never_the_reverse() -> None:
    views = heard("a", *(word(p, 2, "ac") for p in "ac"), *(word(p, 1, "ab") for p in "ab"))
    assert views.current.number == 2
    assert views.signed == 2
    assert sorted(views.known) == [0, 1, 2]


def test_a_view_of_others_leaves_me_out_until_a_later_one_has_me() -> None:
    views = heard("a", word("b", 1, "bc"), word("c", 1, "bc"))
    assert views.without_me is not None
    assert views.without_me.members == ("b", "c")
    assert views.current.number == 0
    for party in "abc":
        views.hear(word(party, 2, "abc"))
    assert views.without_me is None


def test_a_view_of_others_is_known_for_its_votes_close_the_round_for_all() -> None:
    """Even where a later view has this party: the others may have closed in the earlier one."""
    views = heard("a", *(word(p, 2, "ab") for p in "ab"), *(word(p, 1, "bc") for p in "bc"))
    assert views.known[1].members == ("b", "c")
    assert views.current.number == 2
    assert views.without_me is None or views.without_me.number < 2


def test_a_view_with_me_is_kept_if_a_liar_made_two_of_one_number() -> None:
    views = heard("a", word("a", 1, "ac"), word("c", 1, "ac"))
    views.hear(word("b", 1, "bc"))
    assert views.hear(word("c", 1, "bc")) is not None
    assert views.known[1].members == ("a", "c")


def test_after_the_round_only_the_present_view_and_later_words_count() -> None:
    views = heard("a", *(word(p, 2, "ab") for p in "ab"), word("c", 3, "abc"))
    views.turned()
    assert list(views.known) == [2]
    assert views.mine == word("a", 2, "ab")
    for party in "bc":
        views.hear(word(party, 1, "bc"))
    assert list(views.known) == [2]
    for party in "ab":
        views.hear(word(party, 3, "abc"))
    assert views.current.number == 3


def test_far_above_all_others_one_alone_takes_nobody() -> None:
    """Two parties name a number that high only if it came to that."""
    views = heard("a", word("b", 3, "bc"), word("c", HIGHEST, "ab"))
    assert views.wish(1, "ab") == (4 + LEAP, ("a", "b"))
    views = heard("a", word("c", 4 + LEAP, "ac"))
    assert views.wish(1, "ac") == (1 + LEAP, ("a", "c"))
    views.hear(word("b", 70, "bc"))
    assert views.wish(1, "ac") == (4 + LEAP, ("a", "c"))
    views.hear(word("b", HIGHEST, "bc"))
    views.hear(word("c", HIGHEST, "bc"))
    assert views.wish(1, "ab") is None


def test_who_only_keeps_the_others_from_agreeing_is_told_for_one_round() -> None:
    lists = [("b", number, "ab" if number % 2 else "bc") for number in range(1, MOST_ALONE + 2)]
    views = heard("a", *(word(*said) for said in lists[:-1]))
    assert views.noisy(1) == set()
    views.hear(word(*lists[-1]))
    assert views.noisy(1) == {"b"}
    assert views.noisy(2) == set()
    views.hear(word("a", 1, "ab"))  # somebody else wants that one too
    assert views.noisy(1) == set()


def test_what_is_crowded_out_is_forgotten_whole() -> None:
    """The newest stay, and so does what made a view."""
    views = heard("a", word("b", 1, "bc"), word("c", 1, "bc"))
    for number in range(2, LEAP + 4):
        views.hear(word("b", number, "ab"))
    assert views.crowded_out == [(2, "b"), (3, "b")]
    assert views.word(1, "b") is not None
    views.hear(word("a", 3, "ab"))
    assert views.unsigned == ("b",)
    assert views.top("b") == LEAP + 3


def test_without_whom_another_wants_to_go_on_is_known_by_what_it_signed_last() -> None:
    assert heard("a").left_out(1) == set()
    assert heard("a", word("b", 1, "ab")).left_out(1) == {"c"}
    assert heard("a", word("b", 1, "ab")).left_out(2) == set()
    assert heard("a", word("b", 1, "ab"), word("b", 2, "abc")).left_out(1) == set()
    assert heard("a", word("b", 2, "ab"), word("b", 1, "abc")).left_out(1) == {"c"}
    assert heard("a", word("a", 1, "ab")).left_out(1) == set()  # its own wish is no other's
    assert heard("a", word("b", 1, "bc")).left_out(1) == set()  # nor is it absent itself
    made = [word(name, 1, "ab") for name in "ab"]
    assert heard("a", *made).left_out(1) == set()  # it is done
    assert heard("a", *made, word("c", 2, "ac")).left_out(1) == set()  # c is no member


def test_whoever_signed_above_the_present_view_was_heard_of_in_its_round() -> None:
    views = heard("a", *(word(p, 1, "ab") for p in "ab"), word("c", 2, "abc", round=4))
    assert views.heard_of("c", 4)
    assert not views.heard_of("c", 1)
    assert not views.heard_of("b", 1)


# --- what to sign next -----------------------------------------------------------------


def test_nothing_to_sign_while_all_members_are_there() -> None:
    assert Views("abc", "a", 2).wish(1, "abc") is None


@pytest.mark.parametrize("alive", ["a", "bc"])
def test_no_view_below_the_minimum_or_without_me(alive: str) -> None:
    assert Views("abc", "a", 2).wish(1, alive) is None


def test_what_a_member_signed_is_in_vain_once_it_signed_another_list_later() -> None:
    """It votes in the earlier view no more, though its signature is here."""
    views = heard("d", *(word(name, 1, "abcd") for name in "abd"), parties="abcd", minimum=3)
    assert views.unsigned == ("c",)
    assert views.wish(1, "abcd") is None
    views.hear(word("a", 2, "abd"))
    assert views.wish(1, "abcd") == (3, tuple("abcd"))


def test_one_does_not_rest_in_a_view_in_which_a_member_votes_no_more() -> None:
    """a and b have let d in, of whom c hears nothing: they wait for c, and would for ever."""
    made = [word(name, 1, "abc") for name in "abc"]
    views = heard("c", *made, parties="abcd", minimum=3)
    assert views.wish(1, "abc") is None
    views.hear(word("a", 2, "abcd", round=2))
    assert views.wish(1, "abc") is None
    views.hear(word("b", 2, "abcd"))
    assert views.wish(1, "abc") == (3, ("a", "b", "c"))


def test_the_view_of_those_alive_has_a_number_above_all_that_were_seen() -> None:
    assert Views("abc", "a", 2).wish(1, "ba") == (1, ("a", "b"))
    assert heard("a", word("c", 5, "bc")).wish(1, "ab") == (6, ("a", "b"))


def test_the_highest_proposal_of_the_same_members_is_joined() -> None:
    views = heard("a", word("b", 1, "ab"), word("b", 3, "ab"), word("b", 4, "ab", round=2))
    assert views.wish(1, "ab") == (3, ("a", "b"))


def test_nobody_signs_twice_for_one_number_or_below_it() -> None:
    """It proposes anew instead of joining what is not above its own last word."""
    views = heard("a", word("a", 2, "ac"), word("b", 2, "ab"), word("b", 1, "ab"))
    assert views.wish(1, "ab") == (3, ("a", "b"))


def test_what_is_signed_is_waited_for() -> None:
    assert heard("a", word("a", 1, "ab")).wish(1, "ab") is None


@pytest.mark.parametrize(("round", "alive"), [(2, "ab"), (1, "ac")])
def test_what_is_signed_for_another_round_or_list_is_left(round: int, alive: str) -> None:
    assert heard("a", word("a", 1, "ab")).wish(round, alive) == (2, tuple(alive))


@pytest.mark.parametrize("number", [1, 2])
def test_what_a_member_will_never_sign_is_not_waited_for(number: int) -> None:
    """It signed another list for that number, or a later view, before it heard of mine."""
    views = heard("a", word("a", 1, "ab"), word("b", number, "bc"))
    assert views.wish(1, "ab") == (number + 1, ("a", "b"))


def test_left_out_and_all_members_there_a_new_view_is_due() -> None:
    views = heard("a", word("b", 1, "bc"), word("c", 1, "bc"))
    assert views.wish(1, "abc") == (2, ("a", "b", "c"))


def test_a_number_that_nobody_follows_makes_nothing_vain() -> None:
    far = word("c", HIGHEST, "ac")
    views = heard("a", word("a", 1, "abc"), word("b", 1, "abc"), far)
    assert views.unsigned == ("c",)
    assert views.wish(1, "abc") is None
    views.hear(word("c", 2, "ac"))
    assert views.wish(1, "abc") is not None


def test_lists_that_nobody_else_signs_are_progress_a_few_times_only() -> None:
    views = heard("a", *(word("b", n, "bc") for n in range(1, 4)), word("b", 9, "bc", round=2))
    assert (views.said("b", 1), views.said("b", 2), views.said("c", 1)) == (3, 1, 0)
    for number in range(10, 30):
        views.hear(word("b", number, "bc"))
    assert views.said("b", 1) == MOST_ALONE
    for number in range(10, 14):
        views.hear(word("c", number, "bc"))
    assert views.said("b", 1) == MOST_ALONE + 4


# --- what must be voted on -------------------------------------------------------------


def test_in_a_view_of_an_earlier_round_each_members_update_counts() -> None:
    view = view_of(word("a", 1, "ab", cast=vote("a", 0, "abc")), word("b", 1, "ab", holds="c"))
    demand = demand_of(view, 2)
    assert (demand.parties, dict(demand.roots), demand.settled) == (("a", "b"), {}, False)


def test_the_highest_vote_settles_the_inputs() -> None:
    view = view_of(
        word("a", 3, "abc", cast=vote("a", 0, "abc"), holds="abc"),
        word("b", 3, "abc", cast=vote("b", 2, "bc"), holds="bc"),
        word("c", 3, "abc", holds="abc"),
    )
    demand = demand_of(view, 1)
    assert demand.settled
    assert demand.parties == ("b", "c")
    assert demand.roots == {"b": root("b"), "c": root("c")}


def test_without_votes_all_that_is_held_counts() -> None:
    demand = demand_of(view_of(word("a", 1, "ab", holds="ac"), word("b", 1, "ab")), 1)
    assert not demand.settled
    assert demand.parties == ("a", "b", "c")
    assert demand.roots == {"a": root("a"), "c": root("c")}


def test_two_updates_of_one_party_are_shown_and_neither_counts() -> None:
    other = (("c", root("c", 1), root("c", 1) * 2),)
    lying = Statement(RUN, 1, 1, "b", ("a", "b"), b"", b"", other)
    demand = demand_of(view_of(word("a", 1, "ab", holds="ac"), lying), 1)
    assert demand.parties == ("a", "b")
    assert "c" not in demand.roots
    assert demand.liars == {
        "c": ((root("c"), root("c") * 2), (root("c", 1), root("c", 1) * 2)),
    }


def test_votes_of_one_view_that_contradict_each_other_settle_nothing() -> None:
    view = view_of(
        word("a", 1, "ab", cast=vote("a", 0, "abc"), holds="ab"),
        word("b", 1, "ab", cast=vote("b", 0, "abc", face=1), holds="ab"),
    )
    demand = demand_of(view, 1)
    assert not demand.settled
    assert demand.parties == ("a", "b")


def test_a_vote_follows_from_what_its_view_settles() -> None:
    view = view_of(word("b", 1, "bc", cast=vote("b", 0, "abc")), word("c", 1, "bc"))
    for party, inputs, face, does in (
        ("c", "abc", 0, True),
        ("b", "abc", 0, True),
        ("a", "abc", 0, False),
        ("c", "bc", 0, False),
        ("c", "abc", 1, False),
    ):
        assert follows(decode_vote(vote(party, 1, inputs, face=face)), view) is does
    # In a later round of that view, on what its members release then.
    assert follows(decode_vote(vote("c", 1, "bc", face=7, round=2)), view)


def test_the_demand_does_not_depend_on_the_order_of_the_statements() -> None:
    words = [word("a", 1, "ab", holds="c"), word("b", 1, "ab", cast=vote("b", 0, "ab"))]
    assert demand_of(view_of(*words), 1) == demand_of(view_of(*reversed(words)), 1)


def test_after_the_round_a_view_between_the_present_and_the_last_of_others_is_known() -> None:
    """A vote that was cast in it may stand in what they sign later."""
    words = [word(name, 1, "bc") for name in "bc"] + [word(name, 2, "bd") for name in "bd"]
    one = heard("a", *words, parties="abcd")
    one.turned()
    assert sorted(one.known) == [0, 1, 2]
    assert (one.current.number, one.without_me and one.without_me.number) == (0, 2)


def test_the_root_party_is_in_every_view_however_loud_it_is() -> None:
    loud = [word("c", number, "ac") for number in range(1, MOST_ALONE + 2)]
    views = Views("abc", "a", 2, root="c")
    for said in loud:
        views.hear(said)
    assert heard("a", *loud).alive(1, ()) == {"a", "b"}
    assert views.alive(1, ()) == {"a", "b", "c"}
    assert views.wish(1, "ab") is None
    assert views.wish(1, "ac") == (MOST_ALONE + 1, ("a", "c"))
