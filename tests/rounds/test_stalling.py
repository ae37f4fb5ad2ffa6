"""One of four that holds the others up, or a death at a bad moment: they go on without it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from splitfed.errors import PeerUnreachable
from splitfed.rounds import pace, remaining
from splitfed.rounds.view import Statement
from splitfed.rounds.vote import decode_vote, encode_vote
from splitfed.store import RunFolder
from splitfed.transport.events import Outgoing, note_message, vote_message
from tests.support.members import Leaver, Town
from tests.support.one import One, word
from tests.support.quick import (
    DEAD,
    Four,
    PowerCut,
    QuickLink,
    after,
    alike,
    begin,
    dies_in,
    ended,
    four,
    views_of,
)

pytestmark = pytest.mark.usefixtures("silence")


GAINED = {
    "abc": after([1, 2, 3, 4], [1, 2, 3, 4], *[[1, 2, 3]] * 2),
    "bcd": after([1, 2, 3, 4], [1, 2, 3, 4], *[[2, 3, 4]] * 2),
}
"""What these three come to when the fourth ends in round 2, after its update was released."""


def go_on(town: Four, names: str, **engine: Any) -> dict[str, torch.Tensor]:
    """All begin, and these end as done and alike: with what."""
    begin(town, **{"confirm_within": 5.0, **engine})
    town.wait(*names)
    return ended(town, names)


def proposing(town: Town, number: int, *, wrongly: bool) -> type[QuickLink]:
    """d does not vote in round 2: it signs the list of all ``number`` times, each a view. In the
    last it votes for something else, or never."""

    class Proposing(QuickLink):
        def vote(self, round: int, body: bytes, signature: bytes) -> None:
            if round < 2:
                return super().vote(round, body, signature)
            good, sign = decode_vote(body), town.secrets["d"].sign
            for view in range(1, number + 1):
                if view == number and wrongly:
                    lie = msgspec.structs.replace(good, view=view, aggregate=b"?" * 32)
                    cast = encode_vote(lie)
                    super().vote(2, cast, sign(vote_message(cast)))
                said = Statement(good.run, view, 2, "d", tuple("abcd"))
                text = msgspec.msgpack.encode(said)
                self.note(2, "d", "view", text, sign(note_message("view", text)))
                time.sleep(0.3)
            DEAD.add("d")
            raise PowerCut

    return Proposing


def test_a_liar_found_when_the_next_view_may_not_be_signed_yet_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "QUICK", 2)
    town = four(tmp_path)
    town.other = proposing(town, 9, wrongly=True)
    go_on(town, "abc")
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert "its vote contradicts" in folder.quarantined["d"]


def test_who_signs_views_for_ever_and_votes_in_none_is_late_by_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each view would be a new wait, and each signature progress."""
    monkeypatch.setattr(remaining, "MOST_IN_VAIN", 3)
    town = four(tmp_path)
    town.other = proposing(town, 8, wrongly=False)
    go_on(town, "abc")
    *made, last = views_of(town, "a")
    assert last == ["a", "b", "c"]
    assert len(made) < 6
    with RunFolder.read_only(town.folders["a"]) as folder:
        assert folder.quarantined == {}


def test_who_says_that_our_key_is_used_twice_is_believed_by_nobody_but_alone(
    tmp_path: Path,
) -> None:
    class Claims(QuickLink):
        def vote(self, round: int, body: bytes, signature: bytes) -> None:
            super().vote(round, body, signature)
            if round == 2:
                self._each(lambda conversation: conversation.goodbye("key-in-use", 0, "x"))

    town = four(tmp_path)
    town.other = Claims
    assert alike(go_on(town, "abc"), GAINED["abc"])


def test_after_one_left_for_good_another_may_still_be_away_for_a_while(tmp_path: Path) -> None:
    """on_absent = "wait" holds for it: it is only late."""
    town = four(tmp_path)
    town.learners["d"] = Leaver(4.0, last=2)
    dies_in(town, "c", 3)
    begin(town, on_absent="wait")
    town.wait()
    for name in "ab":
        found = town.endings[name]
        assert isinstance(found, PeerUnreachable), found
        assert "c showed no progress" in found.message
    assert {"c"} == DEAD


@pytest.mark.usefixtures("waited_out")
def test_whoever_waits_for_what_one_other_has_of_a_dead_party_is_not_to_blame(
    tmp_path: Path,
) -> None:
    """a's update reached b alone: c and d wait for it, and b for their votes. Silence of an
    earlier wait ends nothing, nor does what was told before the statement that explains it."""

    class Dies(QuickLink):
        def offer(self, outgoing: Outgoing, to: Any = None) -> None:
            super().offer(outgoing, ["b"] if outgoing.offer.round == 2 else to)

        def vote(self, round: int, body: bytes, signature: bytes) -> None:
            if round == 2:
                time.sleep(0.3)
                town.kill("a")
                raise PowerCut
            super().vote(round, body, signature)

    town = four(tmp_path)
    town.other, town.whose = Dies, "a"
    assert alike(go_on(town, "bcd", patience=40.0, on_absent="finish-alone"), GAINED["bcd"])


# --- after the last round --------------------------------------------------------------


def test_when_all_rounds_are_closed_no_view_is_signed(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be for a round that there is not, and its signer would pass for a liar."""
    monkeypatch.setattr(RunFolder, "last_closed", 1)
    assert one.membership.consider({"c"})
    assert one.link.said("view") == []
    monkeypatch.setattr(RunFolder, "last_closed", 0)
    assert one.membership.consider({"c"})
    assert len(one.link.said("view")) == 1


def test_idle_is_who_keeps_many_views_of_one_round_from_closing_it(
    one: One, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remaining, "MOST_IN_VAIN", 1)
    for number in (1, 2):
        assert one.membership.idle() == set()
        for name in "bc":
            one.hears(word(name, number, "abc"))
        one.membership.consider(())
    assert one.membership.views.current.number == 2
    assert one.membership.idle() == {"b", "c"}
