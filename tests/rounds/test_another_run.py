"""Something of another run than ours: whose fault it is."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from splitfed.errors import FolderDiverged
from splitfed.rounds import Ending
from splitfed.rounds.mail import Mail
from splitfed.rounds.violations import Violation
from splitfed.store import RunFolder
from splitfed.transport.events import Arrived, Event, Greeting, Noted
from tests.rounds.test_mail import arrival, voted
from tests.support.one import vote, word
from tests.support.quick import QuickLink, begin, ended, four

pytestmark = pytest.mark.usefixtures("silence")

OTHER = b"x" * 32


def things(party: str) -> list[Event]:
    """An update, a vote and a statement of ``party``, each of another run."""
    offer, payload = arrival(party)
    said = msgspec.msgpack.encode(msgspec.structs.replace(word(party, 1, "abc"), run=OTHER))
    return [
        Arrived(party, msgspec.structs.replace(offer, run=OTHER), payload),
        voted(msgspec.structs.replace(vote(party, 0, "abc"), run=OTHER)),
        Noted(party, 1, party, "view", said, b""),
    ]


@pytest.mark.parametrize("number", range(3))
def test_once_a_round_is_closed_it_is_its_senders_fault(
    number: int, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All have met in one run."""
    monkeypatch.setattr(RunFolder, "last_closed", 1)
    with pytest.raises(Violation, match=r"^c: .*another run"):
        mail.handle(things("c")[number])


def test_before_that_nobody_is_to_blame_for_it(mail: Mail) -> None:
    """A third party may have shown different run folders to its sender and to us."""
    for event in things("c"):
        mail.handle(event)
    assert mail.membership.quarantined == {}
    assert set(mail.membership.gone) == {"c"}
    error = mail.membership.failures["c"]
    assert isinstance(error, FolderDiverged)
    assert "c is in another run than a: some party has shown" in error.message


def test_what_is_passed_on_of_another_run_is_the_bearers_fault(mail: Mail) -> None:
    other = msgspec.structs.replace(vote("c", 0, "abc"), run=OTHER)
    with pytest.raises(Violation, match="b: passes on a vote of another run"):
        mail.handle(voted(other, by="b"))


@pytest.mark.parametrize("shown", ["a", "abc"])
def test_one_that_shows_each_another_folder_brings_nobody_to_take_others_for_liars(
    shown: str, tmp_path: Path
) -> None:
    town = four(tmp_path)

    class TwoFaced(QuickLink):
        def greet(self, greeting: Greeting) -> None:
            def tell() -> None:
                for peer, conversation in self._conversations.items():
                    folder = peer.encode() * 16 if peer in shown else greeting.folder
                    conversation.greeting = msgspec.structs.replace(greeting, folder=folder)

            self._post(tell)

    town.other = TwoFaced
    begin(town, confirm_within=5.0)
    town.wait(*"abc")
    for name in "abc":
        with RunFolder.read_only(town.folders[name]) as folder:
            assert not {*folder.quarantined} - {"d"}
        if name in shown:
            error = town.endings[name]
            assert isinstance(error, FolderDiverged)
            # By telephone the lists tell who showed two.
            assert f"d {(name.encode() * 4).hex()}" in error.message
        else:
            assert isinstance(town.endings[name], Ending)
    if shown == "a":
        ended(town, "bc")
