"""What a hostile reader of the engine found, each as the law it broke."""

from __future__ import annotations

import pytest
import torch

from splitfed.errors import OwnUpdatesExcluded, UserError
from splitfed.rounds.checks import offer_fault
from splitfed.rounds.vote import encode_vote, make_vote
from splitfed.store import Ledger, RunFolder
from splitfed.tensors import describe, digest
from splitfed.transport.events import Arrived, Voted, vote_message
from tests.rounds.test_engine import Liar, PowerCut
from tests.rounds.test_gates import TERMS, offer_of
from tests.support.crash import QuickDisk
from tests.support.members import INITIAL, AddingLearner, Town


def test_a_confirmed_folder_without_a_report_ends_without_its_peers(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    town.start("a")
    town.start("b")
    town.wait()
    town.start("b")
    town.wait("b")
    assert (town.endings["b"].outcome, town.endings["b"].confirmed) == ("done", True)
    assert town.learners["b"].trained == [1, 2, 3, 4]


def test_an_unconfirmed_folder_serves_for_a_bounded_time(tmp_path, monkeypatch):
    town = Town(tmp_path, ["a", "b"])
    monkeypatch.setattr(RunFolder, "confirm", lambda self: None)
    town.start("a")
    town.start("b")
    town.wait()
    monkeypatch.undo()
    town.start("b", confirm_within=0.1)
    town.wait("b")
    assert (town.endings["b"].outcome, town.endings["b"].confirmed) == ("done", False)


def test_going_alone_trains_the_open_round_once_and_survives_a_crash(tmp_path):
    town = Town(tmp_path, ["a", "b"])

    def cut(round):
        if round == 3:
            raise PowerCut

    town.learners["a"].crash = cut
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted), aggregate=b"x" * 32)
        town.wait("a")
    assert isinstance(town.endings["a"], PowerCut)
    assert town.learners["a"].trained == [1, 2]
    town.learners["a"] = AddingLearner(1.0)
    town.start("a")
    town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert town.learners["a"].trained == [3, 4]
    assert [fault["peer"] for fault in town.rejected["a"]] == ["b"]


def test_a_safety_stop_is_the_same_stop_when_run_again(tmp_path, monkeypatch):
    town = Town(tmp_path, ["a", "b"], {"max_void_rounds": 1})
    monkeypatch.setattr("splitfed.rounds.gates.shorten", lambda update, base, bound: (update, None))
    town.learners["a"].step = 1e6
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted))
        town.wait("a")
    for _ in range(2):
        assert isinstance(town.endings["a"], OwnUpdatesExcluded)
        town.learners["a"] = AddingLearner(1.0)
        town.start("a")
        town.wait("a")


class CutAtClose(QuickDisk):
    """The power fails right after the first round was closed."""

    def commit(self, connection):
        super().commit(connection)
        if connection.execute("SELECT count(*) FROM closed").fetchone()[0]:
            raise PowerCut


@pytest.mark.parametrize(("victim", "ended"), [("a", "excluded"), ("b", "alone")])
def test_a_power_cut_after_the_last_void_round_makes_nobody_wait_for_whoever_left(
    tmp_path, monkeypatch, victim, ended
):
    town = Town(tmp_path, ["a", "b"], {"max_void_rounds": 1})
    monkeypatch.setattr("splitfed.rounds.gates.shorten", lambda update, base, bound: (update, None))
    town.learners["a"].step = 1e6
    town.disks[victim] = CutAtClose()
    town.start("a")
    town.start("b")
    town.wait()
    assert isinstance(town.endings[victim], PowerCut)
    del town.disks[victim]
    town.learners[victim] = AddingLearner(1.0)
    town.start(victim)
    town.wait(victim, within=20.0)
    ending = town.endings[victim]
    assert isinstance(ending, OwnUpdatesExcluded) or ending.outcome == ended


def test_no_round_reads_all_that_was_ever_released(tmp_path, monkeypatch):
    """A thousand rounds would take the square of a thousand."""
    read = []
    rows = Ledger.rows
    monkeypatch.setattr(Ledger, "rows", lambda self: read.append(1) or rows(self))
    counts = []
    for rounds in (1, 4):
        read.clear()
        town = Town(tmp_path / str(rounds), ["a", "b"], {"rounds": rounds})
        town.start("a")
        town.start("b")
        town.wait()
        counts.append(len(read))
    assert counts[0] == counts[1]


def test_early_votes_that_contradict_each_other_end_the_federation_by_name(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        seen = liar.expect(Voted)
        for aggregate in (b"x" * 32, b"y" * 32):
            body = encode_vote(
                make_vote(
                    run=liar.run, round=2, party="b", inputs={}, excluded={}, aggregate=aggregate
                )
            )
            liar.link.vote(2, body, town.secrets["b"].sign(vote_message(body)))
        liar.vote(seen)
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert town.rejected["a"][0]["peer"] == "b"


@pytest.mark.parametrize("changes", [{"view": 1}, {"view": 2**63}, {"round": 9}])
def test_a_vote_of_another_view_or_a_far_round_is_a_violation_not_a_crash(tmp_path, changes):
    town = Town(tmp_path, ["a", "b"])
    town.start("a")
    with Liar(town) as liar:
        liar.expect(Arrived)
        liar.offer(INITIAL, 1)
        liar.vote(liar.expect(Voted), **changes)
        town.wait("a")
    assert town.endings["a"].outcome == "alone"
    assert town.rejected["a"][0]["peer"] == "b"


def test_a_peer_s_long_or_unprintable_name_is_cut_before_it_enters_our_vote():
    offer, _ = offer_of({**INITIAL, "x" * 70_000 + "\x1b[2J": torch.zeros(1)})
    reason = offer_fault(offer, terms=TERMS, run=None) or ""
    assert reason
    assert len(reason) < 400
    assert "\x1b" not in reason


def test_an_update_that_is_not_finite_is_trained_again_by_the_next_run(tmp_path):
    town = Town(tmp_path, ["a", "b"])
    town.learners["b"].step = float("nan")
    town.start("a")
    town.start("b")
    town.wait("b")
    assert isinstance(town.endings["b"], UserError)
    town.learners["b"] = AddingLearner(2.0)
    town.start("b")
    town.wait()
    assert digest(town.endings["a"].shared) == digest(town.endings["b"].shared)
    assert describe(town.endings["a"].shared) == describe(INITIAL)


def test_patience_counts_from_when_we_began_to_wait(tmp_path):
    now = [0.0]
    town = Town(tmp_path, ["a", "b"], clock=lambda: now[0])

    def slow(round):
        now[0] += 1000.0  # our own training takes far longer than our patience

    town.learners["a"].crash = slow
    town.start("a", patience=500.0)
    town.start("b")
    town.wait()
    assert [town.endings[name].outcome for name in "ab"] == ["done", "done"]
