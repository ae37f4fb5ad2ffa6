"""One of three was left out, or the keys changed meanwhile: it comes back, releases nothing in
vain and gets what the others agreed on, and nobody honest is taken for a liar."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from splitfed.errors import ContractMismatch
from splitfed.rounds import Ending
from splitfed.rounds.vote import decode_vote, encode_vote
from splitfed.store import RunFolder
from splitfed.tensors import digest
from splitfed.transport.events import Event, Greeted, Greeting, Noted, vote_message
from splitfed.transport.link import Link
from tests.support.hostile import until
from tests.support.members import AddingLearner, Town, replace_keys
from tests.support.quick import (
    DEAD,
    PowerCut,
    Quick,
    QuickLink,
    after,
    alike,
    begin,
    dies_in,
    ended,
    swift,
    town_of,
    views_of,
)

pytestmark = pytest.mark.usefixtures("silence")


def anew(town: Town, *names: str) -> None:
    """Learners that know nothing."""
    for name in names:
        town.learners[name] = AddingLearner(1.0 + town.names.index(name))
        del town.endings[name]


def again(town: Town, *names: str, **engine: Any) -> None:
    """New processes, with learners that know nothing."""
    anew(town, *names)
    begin(town, *names, **engine)


def stops_in(town: Town, names: str, round: int) -> None:
    """All run until these parties would begin to train ``round``."""

    def stop(now: int) -> None:
        if now == round:
            raise PowerCut

    for name in names:
        town.learners[name].crash = stop
    begin(town)
    town.wait()


def closed(town: Town, name: str) -> int:
    with RunFolder.read_only(town.folders[name]) as folder:
        last = folder.closed()
    return 0 if last is None else last.round


def out_of(town: Town, name: str) -> dict[str, str]:
    with RunFolder.read_only(town.folders[name]) as folder:
        return folder.quarantined


def released(town: Town, name: str) -> list[int]:
    with RunFolder.read_only(town.folders[name]) as folder:
        return [entry.row.round for entry in folder.ledger.rows()]


# --- keys that change after a view was made --------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("owner", ["a", "b"])
def test_new_keys_after_a_view_was_made_harm_nobody(tmp_path: Path, owner: str, lost: bool) -> None:
    """What made the view, and the votes in it, bear the old key and are passed on to c."""
    town = town_of(tmp_path, rounds=8)
    dies_in(town, "c", 2)

    stops_in(town, "ab", 4)
    replace_keys(town, owner, lost=lost)
    DEAD.clear()
    again(town, *"abc")
    town.wait()
    ended(town, "abc")
    assert [out_of(town, name) for name in "abc"] == [{}] * 3


# --- one that comes back ---------------------------------------------------------------


def test_what_the_others_closed_while_it_trained_is_heard_before_anything_is_released(
    tmp_path: Path,
) -> None:
    """c trains round 2 until they have closed round 4 without it, and told it so."""
    town = town_of(tmp_path, rounds=6)
    heard: list[Event] = []

    def slow(round: int) -> None:
        if round != 2:
            return
        for other in "ab":
            town.hub.part("c", other)
        DEAD.add("c")
        link = town.links["c"]
        watch = link.watch
        link.watch = lambda event: (watch(event), heard.append(event))
        until(lambda: closed(town, "a") >= 4, "a and b did not go on")
        for other in "ab":
            town.hub.join("c", other)
        DEAD.clear()
        until(
            lambda: (
                {n.origin for n in heard if isinstance(n, Noted) and n.kind == "vote"} >= {*"ab"}
            ),
            "c was not told",
        )

    def hold(round: int) -> None:
        if round == 5:
            until(lambda: closed(town, "c") >= 4, "c did not take over what it missed")

    town.learners["c"].crash, town.learners["a"].crash = slow, hold
    begin(town)
    town.wait()
    assert 2 not in released(town, "c")
    ended(town, "abc")


class Late(QuickLink):
    """What others sign is heard only when there is nothing else to do after the meeting."""

    def __init__(self, *args: Any, **fields: Any) -> None:
        super().__init__(*args, **fields)
        self.met: set[str] = set()
        self.kept: list[Event] = []

    def next(self, timeout: float | None = None) -> Event | None:
        idle = len(self.met) == 2 and timeout != 0.0
        if idle and self.kept:
            return self.kept.pop(0)
        event = super().next(timeout)
        if isinstance(event, Greeted):
            self.met.add(event.peer)
        if isinstance(event, Noted) and not idle:
            self.kept.append(event)
            return None
        return event


def test_nothing_is_released_in_a_round_that_a_greeting_says_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """c had trained round 2 when it died: all it knows of the others then is their greeting."""
    town = town_of(tmp_path, rounds=6)
    real = RunFolder.release

    def dying(self: RunFolder, row: Any, *args: Any, **fields: Any) -> Any:
        if (self.party, row.round) == ("c", 2) and "c" not in DEAD:
            town.kill("c")
            DEAD.add("c")
            raise PowerCut
        return real(self, row, *args, **fields)

    def hold(round: int) -> None:
        if round == 5:
            town.wait("c")
            monkeypatch.setattr(RunFolder, "release", real)
            DEAD.clear()
            town.spokesman = Late
            again(town, "c")
            until(lambda: closed(town, "c") >= 4, "c to take over what it missed")

    monkeypatch.setattr(RunFolder, "release", dying)
    town.learners["a"].crash = hold
    begin(town)
    town.wait("a", "b")
    town.wait("c")
    assert 2 not in released(town, "c")
    ended(town, "abc")


def test_no_round_is_trained_that_a_greeting_says_is_closed(tmp_path: Path) -> None:
    town = town_of(tmp_path, rounds=6)
    dies_in(town, "c", 2)

    def hold(round: int) -> None:
        if round == 5:
            town.wait("c")
            DEAD.clear()
            town.spokesman = Late
            again(town, "c")
            until(lambda: closed(town, "c") >= 4, "c to take over what it missed")

    town.learners["a"].crash = hold
    begin(town)
    town.wait("a", "b")
    town.wait("c")
    ended(town, "abc")
    assert min(town.learners["c"].trained, default=5) >= 5


def test_one_that_trains_more_slowly_says_that_it_is_back_before_it_trains(
    tmp_path: Path,
) -> None:
    """The others close a round without it during each of its trainings."""
    town = town_of(tmp_path, rounds=12)
    dies_in(town, "c", 2)

    def member() -> bool:
        views = views_of(town, "a")
        return bool(views) and views[-1] == ["a", "b", "c"]

    def asked(round: int) -> bool:
        with RunFolder.read_only(town.folders["c"]) as folder:
            return any((row.party, row.round) == ("c", round) for row in folder.statements())

    def hold(round: int) -> None:
        """c is started again in round 4. From round 6 on, a does not go on before c has asked to
        take part, and c does not end a training before a has gone on, or let it in."""
        if round == 4:
            town.wait("c")
            DEAD.clear()
            again(town, "c")
            town.learners["c"].crash = lambda now: until(
                lambda: member() or closed(town, "a") >= now, "a and b wait for nobody"
            )
        if round >= 6:
            until(lambda: member() or asked(round), "c does not ask")

    town.learners["a"].crash = hold
    begin(town)
    town.wait("a", "b")
    town.wait("c")
    ended(town, "abc")
    assert member()
    assert [row["outcome"] for row in town.history("c")][-1] == "agreed"


def test_one_that_only_stays_silent_is_noticed_while_another_was_not_met_yet(
    tmp_path: Path,
) -> None:
    """a, c and e start again: d is away, and b, which greets them, trains for ever. They are more
    than half."""
    town = town_of(tmp_path, "abcde", max_update_norm=100.0)
    stops_in(town, "abcde", 2)
    training, enough = threading.Event(), threading.Event()

    def stop(round: int) -> None:
        assert training.wait(30.0)
        raise PowerCut

    anew(town, *"abcde")
    for name in "acde":
        town.learners[name].crash = stop
    town.learners["b"].crash = lambda round: (training.set(), enough.wait(60.0))
    begin(town)
    town.wait(*"acde")
    again(town, *"ace", confirm_within=5.0)
    links = [town.links[name] for name in "ace"]
    met = "connected"
    until(lambda: all(it.peers_status()["b"].state == met for it in links), "b does not greet")
    DEAD.add("d")
    logs = [town.folders[name] / "log.jsonl" for name in "ace"]
    until(lambda: all('"view-signed"' in log.read_text() for log in logs), "d is not missed")
    DEAD.add("b")
    town.wait(*"ace")
    enough.set()
    assert alike(ended(town, "ace"), after([1, 2, 3, 4, 5], *[[1, 3, 5]] * 3))


# --- the last round --------------------------------------------------------------------


def left_out_at_the_end(town: Town) -> None:
    """a and b finish without c, and do not know whether it ever gets what they agreed on."""
    dies_in(town, "c", 2)
    begin(town)
    town.wait()
    ended(town, "ab")
    assert not town.endings["a"].confirmed
    assert not town.endings["b"].confirmed
    DEAD.clear()


def test_one_that_was_left_out_at_the_end_gets_what_was_agreed_later(tmp_path: Path) -> None:
    town = town_of(tmp_path, rounds=3)
    left_out_at_the_end(town)
    again(town, *"abc")
    town.wait()
    assert alike(ended(town, "abc"), after([1, 2, 3], [1, 2], [1, 2]))
    assert all(town.endings[name].confirmed for name in "abc")
    assert [row["outcome"] for row in town.history("c")] == ["agreed", "missed", "missed"]


def test_one_of_the_others_is_enough_for_that(tmp_path: Path) -> None:
    """a remembers that b has finished; c cannot know it."""
    town = town_of(tmp_path, rounds=3)
    left_out_at_the_end(town)
    DEAD.add("b")
    kept = town.endings["b"]
    again(town, *"ac")
    town.wait("a", "c")
    town.endings["b"] = kept
    assert alike(ended(town, "abc"), after([1, 2, 3], [1, 2], [1, 2]))
    assert (town.endings["a"].confirmed, town.endings["c"].confirmed) == (True, False)


# --- what a person can mend ---------------------------------------------------------------


class Misled(Quick):
    """c has an old file of the agreement."""

    old = False

    def greeting(self, name: str, folder: bytes, boot: int) -> Greeting:
        greeting = super().greeting(name, folder, boot)
        old = self.old and name == "c"
        return msgspec.structs.replace(greeting, roster=b"o" * 32) if old else greeting


def test_a_party_with_an_old_agreement_is_told_and_may_come_back_with_the_right_one(
    tmp_path: Path,
) -> None:
    """It is not taken for one that the others have left: that would be for good."""
    town = Misled(tmp_path, list("abc"), {"rounds": 6}, clock=swift)

    stops_in(town, "abc", 3)
    again(town, "a", "b")
    town.old = True
    again(town, "c")
    town.wait("c")
    assert isinstance(town.endings["c"], ContractMismatch)
    town.wait("a", "b")
    ended(town, "ab")
    town.old = False
    again(town, *"abc")
    town.wait()
    ended(town, "abc")
    assert [row["outcome"] for row in town.history("c")][2:] == ["missed"] * 4


# --- votes that are none ---------------------------------------------------------------


def foreign_votes(town: Town) -> type[Link]:
    """In round 2, c votes for something else in views that it is no member of, and is gone."""

    class Lying(QuickLink):
        def vote(self, round: int, body: bytes, signature: bytes) -> None:
            if round != 2:
                super().vote(round, body, signature)
                return
            said = decode_vote(body)
            for view in (1, 2, 3):
                lie = encode_vote(msgspec.structs.replace(said, view=view, aggregate=b"?" * 32))
                super().vote(round, lie, town.secrets["c"].sign(vote_message(lie)))
            until(
                lambda: all(
                    {row.view for row in votes_of(town, name) if row.party == "c"} >= {1, 2, 3}
                    for name in "ab"
                ),
                "the votes of c did not come",
            )
            town.kill("c")
            DEAD.add("c")
            raise PowerCut

    return Lying


def votes_of(town: Town, name: str) -> Any:
    with RunFolder.read_only(town.folders[name]) as folder:
        return folder.votes(2)


def test_votes_in_a_view_of_others_keep_nobody_from_closing_it(tmp_path: Path) -> None:
    town = town_of(tmp_path)
    town.spokesman = foreign_votes(town)
    begin(town)
    town.wait("c")
    town.wait("a", "b", within=20.0)
    assert alike(ended(town, "ab"), after([1, 2, 3], [1, 2, 3], [1, 2], [1, 2]))
    for name in "ab":
        assert isinstance(town.endings[name], Ending)
        assert len([row for row in votes_of(town, name) if row.party == name]) <= 3
    assert digest(town.endings["a"].shared) == digest(town.endings["b"].shared)
