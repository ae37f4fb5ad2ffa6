"""What one of three parties makes of its mail, alone with its folder."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch

from splitfed.errors import Defect, FolderError, PeerKeyMismatch
from splitfed.rounds.agreeing import Agreeing
from splitfed.rounds.mail import Mail
from splitfed.rounds.place import Place
from splitfed.rounds.terms import UPDATE
from splitfed.rounds.views import LEAP
from splitfed.rounds.violations import Violation
from splitfed.rounds.vote import Vote, encode_vote
from splitfed.rounds.waiting import GoAlone
from splitfed.store import ReleaseRow, release_id
from splitfed.transport.events import (
    Arrived,
    Failed,
    Greeted,
    Greeting,
    Left,
    Noted,
    OfferRefused,
    Outgoing,
    Voted,
    vote_message,
)
from tests.support.members import INITIAL
from tests.support.one import (
    RUN,
    SECRETS,
    TERMS,
    One,
    believe,
    later_vote,
    noted,
    update,
    vote,
    word,
)


def greeted(party: str, folder: bytes = b"") -> Greeted:
    said = {"contract": TERMS.contract, "roster": b"r" * 32, "initial": b"i" * 32, "boot": 1}
    return Greeted(party, Greeting(name=party, folder=folder or party.encode() * 16, **said))


def voted(said: Vote, by: str = "") -> Voted | Noted:
    body = encode_vote(said)
    signature = SECRETS[said.party].sign(vote_message(body))
    if by:
        return Noted(by, said.round, said.party, "vote", body, signature)
    return Voted(said.party, said.round, body, signature)


def test_a_vote_that_was_passed_on_counts_for_whoever_signed_it(one: One, mail: Mail) -> None:
    said = vote("c", 0, "abc")
    mail.handle(voted(said, by="b"))
    assert mail.book.ballots == {0: {"c": said}}
    assert [row.party for row in one.folder.votes(1)] == ["c"]
    with pytest.raises(Violation, match="c: c cast two different votes"):
        mail.handle(voted(vote("c", 0, "ab"), by="b"))


def test_the_values_of_an_update_are_read_where_they_are_stored(one: One, mail: Mail) -> None:
    """So memory does not grow with the number of parties."""
    all_arrived(one, mail)
    admitted = mail.book.admitted()
    assert list(admitted) == ["a", "b", "c"]
    assert all(verdict.tensors is None for verdict in mail.book.inputs.values())
    for number, name in enumerate("abc"):
        assert all(torch.equal(admitted[name][n], INITIAL[n] + number) for n in INITIAL)
    for path in one.folder.inbox.folder.iterdir():
        path.unlink()
    with pytest.raises(FolderError, match=r"inbox/[0-9a-f]{64} is gone\s+cure: run again"):
        admitted["b"]


def test_what_was_excluded_has_no_values(mail: Mail) -> None:
    mail.handle(OfferRefused("b", update("b")[0], "too long"))
    assert dict(mail.book.admitted()) == {}
    with pytest.raises(Defect, match="the values of b, which was excluded"):
        mail.book.inputs["b"].values()


def released(one: One) -> Outgoing:
    """What a let out, stored."""
    offer, payload = update("a")
    manifest = offer.manifest
    row = ReleaseRow(
        release=release_id(RUN, "a", 1, UPDATE),
        round=1,
        kind=UPDATE,
        tensors=manifest.tensors,
        root=manifest.root,
        size=manifest.total,
        epsilon=None,
    )
    one.folder.release(row, payload, manifest, debit=lambda: None, sign=lambda n, head: bytes(64))
    return Outgoing(offer, payload)


def all_arrived(one: One, mail: Mail) -> None:
    mail.note_own(released(one))
    for name in "bc":
        mail.handle(Arrived(name, *arrival(name)))


def test_what_one_in_quarantine_sends_is_not_looked_at(one: One, mail: Mail) -> None:
    mail.membership.quarantine("b", "lied")
    for event in (voted(vote("b", 0, "abc")), Arrived("b", *arrival("b"))):
        mail.handle(event)
    assert mail.book.ballots == {}
    assert mail.book.inputs == {}
    assert one.folder.votes(1) == ()


def test_a_second_vote_of_one_that_is_out_already_is_not_kept(one: One, mail: Mail) -> None:
    mail.membership.quarantine("c", "lied")
    for inputs in ("abc", "ab"):
        mail.handle(voted(vote("c", 0, inputs), by="b"))
    assert mail.book.ballots == {0: {"c": vote("c", 0, "abc")}}
    assert one.folder.evidence() == ()


def arrival(party: str, face: int = 0) -> tuple[Any, bytearray]:
    offer, payload = update(party, face)
    return offer, bytearray(payload)


def test_an_update_that_was_passed_on_is_nothing_against_whoever_brings_it(
    one: One, mail: Mail
) -> None:
    mail.handle(Arrived("b", *arrival("c")))
    mail.handle(Arrived("b", *arrival("c", 1)))
    assert mail.book.inputs["c"].root == update("c")[0].manifest.root
    with pytest.raises(Violation, match="c: c signed two different updates"):
        mail.handle(Arrived("c", *arrival("c", 1)))
    assert [row.party for row in one.folder.evidence()] == ["c"]


@pytest.mark.parametrize(
    ("left", "gone"),
    [
        (Left("b", "alone", 1), True),
        (Left("b", "alone", 4), False),
        (Left("b", "finished", 4), False),
        (Left("b", "interrupted", 1), False),
    ],
)
def test_only_who_goes_on_alone_is_gone_and_may_come_back(
    mail: Mail, left: Left, gone: bool
) -> None:
    mail.handle(left)
    assert ("b" in mail.membership.gone) == gone
    assert mail.membership.alive(()) == set("ac" if gone else "abc")
    mail.handle(greeted("b"))
    assert mail.membership.gone == {}


def test_beside_one_that_was_not_met_yet_a_lacking_signature_is_awaited(mail: Mail) -> None:
    """Or one that is connected and silent would keep all others from going on without it."""
    assert mail.unmet() == ["b", "c"]
    mail.handle(greeted("b"))
    assert mail.unmet() == ["c"]
    mail.membership.consider({"c"})
    assert mail.unmet() == ["b", "c"]


def test_with_the_votes_that_close_the_round_nobody_need_be_met(mail: Mail) -> None:
    """The others are a round ahead, and never leave out of this one whoever died since."""
    mail.book.add_vote(vote("a", 0, "abc"))
    mail.handle(voted(vote("b", 0, "abc")))
    assert mail.unmet() == ["b", "c"]
    mail.handle(voted(vote("c", 0, "abc"), by="b"))
    assert mail.unmet() == []


def test_whoever_comes_back_with_another_folder_is_out(mail: Mail) -> None:
    mail.handle(greeted("b"))
    with pytest.raises(Violation, match="b: comes back with another run folder"):
        mail.handle(greeted("b", b"x" * 16))


def test_equal_votes_of_others_for_a_later_round_tell_what_to_look_for(
    one: One, mail: Mail
) -> None:
    for name in "bc":
        mail.handle(noted("view", msgspec.msgpack.encode(word(name, 1, "bc")), name))
    for name in "bc":
        assert one.entrance.state is None
        mail.handle(voted(later(name)))
    assert one.entrance.state == (3, b"g" * 32)


def test_a_statement_of_a_later_round_is_heard_at_once(mail: Mail) -> None:
    """However many there are: nobody is to blame for being ahead."""
    for number in range(1, 20):
        said = word("b", number, "bc", round=2)
        mail.handle(noted("view", msgspec.msgpack.encode(said), "b", "c"))
    assert mail.membership.views.top("b") == 19
    assert mail.open(INITIAL, ("update",)) == []


def test_what_had_to_wait_for_the_next_round_is_taken_in_when_it_opens(mail: Mail) -> None:
    for name in "bc":
        mail.handle(noted("view", msgspec.msgpack.encode(word(name, 1, "bc")), name))
    early = word("c", 2, "abc", round=2, cast=later_vote("c", 1, "bc", 2))
    event = noted("view", msgspec.msgpack.encode(early), "c")
    mail.handle(event)
    assert mail.membership.views.top("c") == 1
    assert mail.open(INITIAL, ("update",)) == [event]
    mail.handle(event)
    assert mail.membership.views.top("c") == 2


def test_the_round_that_stands_over_a_vote_that_is_passed_on_is_its_bearers_word(
    one: One, mail: Mail
) -> None:
    said = voted(vote("c", 0, "abc"), by="b")
    assert isinstance(said, Noted)
    mail.handle(replace(said, round=3))
    assert [row.party for row in one.folder.votes(1)] == ["c"]


def test_a_party_that_votes_in_ever_more_views_fills_neither_memory_nor_disk(
    one: One, mail: Mail
) -> None:
    for number in range(3 * LEAP):
        mail.handle(voted(vote("c", number, "abc")))
    kept = [0, *range(2 * LEAP, 3 * LEAP)]
    assert [view for view, ballots in mail.book.ballots.items() if "c" in ballots] == kept
    assert [row.view for row in one.folder.votes(1)] == kept
    mail.handle(voted(vote("c", 5, "abc")))
    assert [row.view for row in one.folder.votes(1)] == kept


def later(party: str, round: int = 3) -> Vote:
    return msgspec.structs.replace(vote(party, 1, "bc"), round=round, shared=b"g" * 32)


def test_votes_for_a_round_that_never_comes_tell_nothing(one: One, mail: Mail) -> None:
    for name in "bc":
        mail.handle(noted("view", msgspec.msgpack.encode(word(name, 1, "bc")), name))
        mail.handle(voted(later(name, TERMS.rounds + 1)))
    assert one.entrance.state is None
    for name in "bc":
        mail.handle(voted(later(name, TERMS.rounds)))
    assert one.entrance.state == (TERMS.rounds, b"g" * 32)


def test_of_the_next_round_so_much_waits_as_three_parties_can_cause(mail: Mail) -> None:
    early = [voted(msgspec.structs.replace(vote("b", n, "abc"), round=2)) for n in range(13)]
    for event in early[:12]:
        mail.handle(event)
    mail.handle(early[12])
    assert mail.open(INITIAL, ("update",)) == early[:12]


class Stop(Exception):
    """Ends a wait."""


def agreeing(one: One, mail: Mail, waits: int = 0) -> tuple[Agreeing, list[int]]:
    """With the rounds in which it released: nothing comes of that, nor of so many waits; then
    :class:`Stop`. Whoever takes a single event waits too."""
    released: list[int] = []
    left = iter(range(waits))

    def until_here(missing: Any, what: str) -> None:
        if next(left, None) is None:
            raise Stop

    link: Any = one.link
    waiting: Any = SimpleNamespace(until_here=until_here, take=lambda *args: until_here(*args[:2]))
    times: Any = SimpleNamespace(waited_until=lambda when: None)
    telling: Any = None
    made = Agreeing(
        terms=TERMS,
        party="a",
        signer=SECRETS["a"],
        folder=one.folder,
        link=link,
        mail=mail,
        waiting=waiting,
        place=Place(terms=TERMS, g=dict(INITIAL)),
        times=times,
        telling=telling,
        rejected=[],
        release=lambda round, kind: released.append(round),
    )
    return made, released


def test_a_vote_is_durable_before_anybody_hears_of_it(one: One, mail: Mail) -> None:
    all_arrived(one, mail)
    outcome, _, said = agreeing(one, mail)[0]._settle(1, UPDATE)
    assert outcome == "agreed"
    assert [name for name, _ in said.inputs] == ["a", "b", "c"]
    assert one.link.votes == [(encode_vote(said), True)]


def test_where_two_views_come_to_different_things_a_member_lied_and_it_ends_alone(
    one: One, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later view carries the votes of the earlier ones, unless somebody hid or forged one."""
    all_arrived(one, mail)
    made, _ = agreeing(one, mail, waits=2)
    monkeypatch.setattr(made, "_judged", lambda kind: None)
    monkeypatch.setattr(mail.membership, "closing", lambda: vote("a", 0, "ab"))
    with pytest.raises(GoAlone, match="round 1: view 0 closed it with different updates of c"):
        made.agree(1, UPDATE)


def test_where_a_liar_cannot_be_left_out_it_ends_alone(
    one: One, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the round would be voted on again and again, each time with the liar."""
    all_arrived(one, mail)
    made, _ = agreeing(one, mail, waits=2)
    blamed: list[tuple[str, str]] = []
    monkeypatch.setattr(made, "_judged", lambda kind: None)
    made.waiting.blame = lambda *liar: blamed.append(liar)
    monkeypatch.setattr(mail.membership, "contradicted", lambda own: ("c", "lied"))
    with pytest.raises(GoAlone, match="c: lied; no view without it can be made"):
        made.agree(1, UPDATE)
    assert blamed == [("c", "lied")]


def test_a_peer_whose_connection_fails_is_gone_until_it_greets(
    mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why is told, and kept for the case that too few are left."""
    said: list[str] = []
    monkeypatch.setattr(mail._progress, "say", said.append)
    mail.handle(Failed("b", error := PeerKeyMismatch("it shows another key\n  now", "use one")))
    assert mail.membership.gone == {"b": "it shows another key"}
    assert mail.membership.failures == {"b": error}
    assert said == ["b: it shows another key; going on without it if the others agree"]
    mail.handle(greeted("b"))
    assert mail.membership.gone == mail.membership.failures == {}


def test_before_all_that_counts_is_here_there_is_no_vote(one: One, mail: Mail) -> None:
    made, released = agreeing(one, mail, waits=2)
    with pytest.raises(Stop):
        made.agree(1, UPDATE)
    assert released == [1, 1, 1]
    assert one.link.votes == []


def test_where_an_input_is_missing_and_nobody_owes_it_mail_is_taken_all_the_same(
    one: One, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the party would turn in a circle, deaf to whatever could end that."""
    mail.note_own(released(one))
    taken: list[list[str]] = []
    made, _ = agreeing(one, mail, waits=3)
    monkeypatch.setattr(made.waiting, "take", lambda missing, *rest: taken.append(missing))
    with pytest.raises(Stop):
        made.agree(1, UPDATE)
    assert taken == [["b", "c"]] * 3


def test_an_update_that_does_not_count_is_never_let_out(one: One, mail: Mail) -> None:
    for name in "bc":
        said = word(name, 2, "abc", cast=vote(name, 1, "bc"))
        mail.handle(noted("view", msgspec.msgpack.encode(said), name))
    for name in "bc":
        mail.handle(noted("view", msgspec.msgpack.encode(word(name, 1, "bc")), name))
    believe(mail.membership)
    mail.membership.consider(())
    assert mail.membership.views.current.number == 2
    made, released = agreeing(one, mail)
    with pytest.raises(Stop):
        made.agree(1, UPDATE)
    assert released == []
