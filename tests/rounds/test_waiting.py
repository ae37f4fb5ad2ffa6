"""Whose silence counts against it, whom a finished party still waits for, and what parties that do
not agree may cost."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from splitfed.errors import PeerUnreachable
from splitfed.rounds.book import Book
from splitfed.rounds.pace import HEARD_OUT, QUICK, SLOWEST, Claims, Pace
from splitfed.rounds.view import View
from splitfed.rounds.violations import Violation
from splitfed.rounds.waiting import EXCUSED, LONGEST_GOODBYE, MOST_AT_ONCE, Waiting
from splitfed.transport.events import Left, PeerView, Status


def waiting(
    gone: str = "", said: int = 0, without: dict[str, str] | None = None, **awaits: str
) -> Waiting:
    """Some peers: for whom each waits; absent if its name is in capitals. ``without``: whom each
    left out in the view that it signed."""
    views = {
        name.lower(): PeerView(
            state="connected" if name.islower() else "absent",
            status=Status("exchanging", 1, 0, 0, awaits=tuple(of)),
            since_change=1.0,
            last_sign_of_life=1.0,
            awaiting="",
        )
        for name, of in awaits.items()
    }
    views_said = SimpleNamespace(
        said=lambda *_: said,
        left_out_by=lambda peer, _: set((without or {}).get(peer, "")),
        current=View(0, tuple("abcde")),
    )
    told: Any = SimpleNamespace(
        gone=dict.fromkeys(gone, "left"),
        dynamic=True,
        views=views_said,
        ready=lambda: None,
        lacking=lambda late: "",
        idle=set,
    )
    link: Any = SimpleNamespace(peers_status=lambda: views)
    mail: Any = SimpleNamespace(membership=told, book=Book(round=1))
    made = Waiting(
        link=link,
        mail=mail,
        folder=told,
        rejected=[],
        patience=1.0,
        on_absent="wait",
        clock=lambda: 0.0,
        telling=told,
    )
    made._slow.update(dict.fromkeys(views))
    return made


@pytest.mark.parametrize(
    ("gone", "awaits", "excused"),
    [
        ("", {"b": "", "c": ""}, ""),
        ("", {"b": "e", "c": ""}, ""),
        ("", {"b": "c", "c": ""}, "b"),
        ("", {"b": "c", "C": ""}, "b"),
        ("", {"B": "c", "c": ""}, ""),
        ("d", {"b": "d", "c": "d"}, "bc"),
        ("", {"b": "b", "c": ""}, ""),
        ("", {"b": "c", "c": "b"}, "b"),
        ("", {"b": "d", "c": "b", "d": "c"}, "bc"),
    ],
)
def test_who_waits_itself_for_a_third_is_not_to_blame(
    gone: str, awaits: dict[str, str], excused: str
) -> None:
    assert waiting(gone, **awaits)._excused({}, 1.0) == set(excused)


def test_whoever_waits_for_one_that_is_awaited_here_too_is_not_to_blame() -> None:
    assert waiting(b="e")._excused({}, 1.0) == set()
    assert waiting(b="e")._excused({"e": 0.5}, 1.0) == {"b"}


def test_no_excuse_lasts_for_ever_or_names_who_is_no_member() -> None:
    """e is gone, and d hangs or lies: its last word is that it waits for e."""
    made = waiting("e", d="e")
    assert made._excused({"d": EXCUSED * 2.0}, 2.0) == {"d"}
    assert made._excused({"d": EXCUSED * 2.0 + 0.1}, 2.0) == set()
    made.mail.membership.views.current = View(1, tuple("abcd"))
    assert made._excused({"d": 0.5}, 2.0) == set()


def test_whoever_signed_a_view_without_a_slow_party_waits_for_it_no_more_and_is_not_to_blame() -> (
    None
):
    """b and c do not reach each other, and both now wait for this party."""
    assert waiting(b="a", c="a")._excused({}, 1.0) == set()
    assert waiting(without={"b": "c", "c": "b"}, b="a", c="a")._excused({}, 1.0) == {"b"}
    assert waiting(without={"b": "c"}, b="a", c="a")._excused({}, 1.0) == {"b"}


@pytest.mark.parametrize(
    ("left", "finished", "lost", "confirmed"),
    [
        ({"b": ("finished", 4), "c": ("finished", 4)}, {}, "", True),
        ({"b": ("finished", 4)}, {"c": 4}, "", True),
        ({"b": ("finished", 4), "c": ("alone", 2)}, {}, "", True),
        ({"b": ("finished", 4)}, {}, "c", False),
        ({"b": ("finished", 4)}, {"c": 3}, "c", False),
    ],
)
def test_at_the_end_nobody_is_waited_for_who_left_or_cannot_come(
    monkeypatch: pytest.MonkeyPatch,
    left: dict[str, tuple[Any, int]],
    finished: dict[str, int],
    lost: str,
    confirmed: bool,
) -> None:
    """Nothing is confirmed of one that failed: another process of it may come yet."""
    made, logged = waiting(b="", c=""), []

    def never(*args: Any) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(made, "take", never)
    made.mail.peers = ("b", "c")
    made.mail.left = {name: Left(name, *how) for name, how in left.items()}
    made.mail.membership.lost, made.mail.membership.quarantined = dict.fromkeys(lost, "keys"), {}
    made.folder.finished = finished
    made.folder.log = lambda event, **fields: logged.append((event, fields["of"]))
    made.telling.waited = lambda: None
    assert made.confirmed(4, 60.0) is confirmed
    assert logged == ([] if confirmed else [("unconfirmed", ["c"])])


def test_a_finished_party_waits_for_nobody_that_is_there_and_gets_no_further() -> None:
    """It does not say goodbye, and its link lives on."""
    now, logged = [0.0], []
    made = waiting(b="")
    made.clock = lambda: now[0]
    membership: Any = made.mail.membership
    membership.lost, membership.quarantined, made.mail.left = {}, {}, {}
    made.mail.peers, made.folder.finished = ("b",), {}
    made.folder.log = lambda event, **fields: logged.append((event, fields["of"]))
    made.link.peers_status = lambda: seen("b", now[0])

    def second(*args: Any) -> None:
        now[0] += 1.0
        assert now[0] < 1000.0, "it waits for ever"

    with mock.patch.object(made, "take", second):
        assert not made.confirmed(4, 6.0)
    assert logged == [("unconfirmed", ["b"])]
    assert 6.0 * LONGEST_GOODBYE < now[0] < 6.0 * LONGEST_GOODBYE + 3.0


def seen(name: str, at: float | None) -> dict[str, PeerView]:
    """A link to ``name``, whose last sign of life was ``at``."""
    view = PeerView(
        state="connected", status=None, since_change=1.0, last_sign_of_life=at, awaiting=""
    )
    return {name: view}


def test_a_statement_is_progress_once_its_party_gives_a_sign_of_life() -> None:
    """Others pass on what it says: where its link is cut it is gone all the same."""
    made, heard = waiting(b=""), [0]
    made.mail.membership.views.said = lambda *_: heard[0]
    before = made._progress("b")
    assert made._progress("b") == before
    heard[0] = 1
    assert made._progress("b") == before
    made.link.peers_status = lambda: seen("b", 2.0)
    assert made._progress("b") != before


# --- what parties that do not agree may cost -------------------------------------------


def test_a_greeting_without_proof_stops_nobody_for_long() -> None:
    now = [0.0]
    claims = Claims(lambda: now[0])
    assert claims.ahead("bc", 1) == []
    claims.closed["b"] = 3
    assert claims.ahead("bc", 4) == []
    assert claims.ahead("bc", 3) == ["b"]
    now[0] = HEARD_OUT - 1.0
    assert claims.ahead("bc", 3) == ["b"]
    now[0] += 1.0  # in all, whatever it says from now on
    claims.closed["b"] = 9
    assert claims.ahead("bc", 4) == []


def test_after_some_views_of_one_round_the_next_are_signed_more_and_more_slowly() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert all(pace.may_sign(1) for _ in range(QUICK))
    pauses = []
    for _ in range(9):
        began = now[0]
        while not pace.may_sign(1):
            now[0] += 0.05
        pauses.append(now[0] - began)
    assert pauses == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, *[SLOWEST] * 3], abs=0.06)
    assert pace.may_sign(2)


def test_however_much_a_peer_sends_training_begins() -> None:
    made, taken = waiting(b=""), []
    made.link.next = lambda timeout: SimpleNamespace(peer="b")
    made.mail.handle = taken.append
    made.mail.peers = ("b",)
    made.mail.membership.views.current = View(0, ("a", "b"))
    made.mail.membership.entry = list
    made.take_all("signature")
    assert len(taken) == MOST_AT_ONCE


def test_what_a_found_liar_held_up_is_taken_in_with_the_next_event() -> None:
    made = waiting(b="")
    aside, heard, blamed = ["of b", "of c"], [], []

    def noted(event: str) -> None:
        heard.append(event)
        if event == "of b":
            raise Violation("b", "lied")

    told: Any = made.mail.membership
    told.ready, told.noted = lambda: aside.pop(0) if aside else None, noted
    told.views.current, made.mail.handle = View(0, ("a", "b")), lambda event: None
    event: Any = None
    with mock.patch.object(made, "blame", lambda *said: blamed.append(said)):
        made.handle(event)
    assert (heard, blamed) == (["of b", "of c"], [("b", "lied")])


def test_who_votes_is_told_when_it_changes() -> None:
    made, said = waiting(b="", c=""), []
    made.mail.handle = lambda event: None
    made.mail.peers, made.mail.number = ("b", "c"), 3
    made.telling.say = said.append
    event: Any = None
    for view in (View(1, ("a", "b", "c")), View(2, ("a", "b")), View(2, ("a", "b"))):
        made.mail.membership.views.current = view
        made.handle(event)
    made.mail.membership.views.current = View(4, ("a", "b", "c"))
    made.handle(event)
    assert said == ["from round 3 on a, b vote, without c", "from round 3 on a, b, c vote"]


def test_only_silence_in_this_very_wait_ends_it_and_only_when_all_was_read() -> None:
    """Too few are left without b, which was silent before; what explains that is on its way."""
    made, pending, handled = waiting(), [], []
    membership = made.mail.membership
    made.mail.run, made.mail.number = b"r" * 32, 1
    membership.pace, membership.returning = Pace(lambda: 0.0), SimpleNamespace(shared=None)
    membership.consider, membership.hopeless = lambda suspects: False, False
    membership.lacking = lambda late: "too few" if late else ""
    made.link.peers_status = lambda: seen("b", 1.0)
    made.link.next = lambda timeout: pending.pop() if pending else None
    made.folder.log = made.telling.say = lambda *args, **fields: None
    made._slow["b"] = made._progress("b"), 1.0
    event: Any = "its statement"
    with mock.patch.object(made, "handle", handled.append):
        made._reconsider({}, "vote")
        made._reconsider({"b": 0.5}, "vote")
        pending.append(event)
        made._reconsider({"b": 1.5}, "vote")
        assert handled == [event]
        with pytest.raises(PeerUnreachable, match="b showed no progress for 2 s .* too few"):
            made._reconsider({"b": 1.5}, "vote")


def test_the_more_views_were_signed_in_vain_the_longer_a_silence_is_borne() -> None:
    """And all that counted as absent are given another chance if they are there; so they are in
    another view."""
    made, asked, pace, life = waiting(), [], Pace(lambda: 1e9), [1.0]
    membership = made.mail.membership
    made.mail.peers, made.mail.run, made.mail.number = ("b", "c"), b"r" * 32, 1
    membership.pace, membership.returning = pace, SimpleNamespace(shared=None)
    membership.views.current = View(0, ("a", "b", "c"))
    membership.consider = lambda suspects: asked.append(set(suspects)) or True
    made.folder.log = made.telling.say = lambda *args, **fields: None
    made.link.peers_status = lambda: seen("b", life[0]) | seen("c", 1.0)
    made._reconsider({"b": 1.5, "c": 1.5}, "vote")
    life[0] = 2.0
    for _ in range(QUICK):
        pace.may_sign(1)
    made._reconsider({"b": 1.5}, "vote")
    made._reconsider({"b": 2.5}, "vote")
    assert asked == [{"b", "c"}, {"c"}, {"b", "c"}]
    made._reconsider({}, "vote")
    membership.views.current, life[0] = View(1, ("a", "b")), 3.0
    made._reconsider({}, "vote")
    assert asked[3:] == [{"b", "c"}, {"c"}]
    assert (pace.doublings(1), pace.doublings(2)) == (1, 0)
