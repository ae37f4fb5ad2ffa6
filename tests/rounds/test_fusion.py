"""What is exchanged for fusion obeys the laws of a round: one gate out, one gate in, one vote."""

from __future__ import annotations

import pytest
import torch

from splitfed.errors import Defect
from splitfed.rounds import admit, release
from splitfed.rounds.checks import ROW_SUM_ERROR
from splitfed.store import RunFolder
from splitfed.tensors import digest
from tests.support.members import INITIAL, Town, outputs_fusion


class PowerCut(Exception):
    """The machine goes dark."""


def town(path, names=("a", "b"), every=None, **changes) -> Town:
    names = list(names)
    return Town(path, names, {"rounds": 2, "fusion": outputs_fusion(names, every), **changes})


def run(it: Town, *names: str) -> None:
    for name in names or it.names:
        it.start(name)
    it.wait(*names)
    for name in names or it.names:
        ending = it.endings[name]
        assert not isinstance(ending, BaseException), ending


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c"]])
def test_every_party_ends_with_what_every_party_released(tmp_path, names):
    it = town(tmp_path, names)
    run(it)
    wanted = {name: digest(it.learners[name].outgoing()) for name in names}
    for name in names:
        received = it.endings[name].received
        assert {party: digest(tensors) for party, tensors in received.items()} == wanted
        assert it.learners[name].prepared == [("outputs", True)]
        assert it.learners[name].absorbed == []
        rows = it.history(name)
        assert [(row["round"], row["kind"]) for row in rows] == [
            (1, "update"), (2, "update"), (2, "outputs"),
        ]  # fmt: skip
        with RunFolder.read_only(tmp_path / name) as folder:
            assert [row.row.kind for row in folder.ledger.rows()] == ["update", "update", "outputs"]


def test_between_rounds_every_party_learns_from_the_outputs_of_all(tmp_path):
    it = town(tmp_path, every=1)
    run(it)
    for name in "ab":
        assert it.learners[name].prepared == [("outputs", False), ("outputs", True)]
        assert [sorted(got) for got in it.learners[name].absorbed] == [["a", "b"]]
        assert it.learners[name].trained == [1, 2]


def test_fusion_leaves_the_shared_tensors_as_the_last_round_left_them(tmp_path):
    plain = Town(tmp_path / "plain", ["a", "b"], {"rounds": 2})
    run(plain)
    it = town(tmp_path / "fused")
    run(it)
    assert digest(it.endings["a"].shared) == digest(plain.endings["a"].shared)


def bad(kind: str) -> dict[str, torch.Tensor]:
    outputs = torch.full((4, 3), 1 / 3)
    if kind == "nan":
        outputs[1, 1] = torch.nan
    elif kind == "negative":
        outputs[2] = torch.tensor([-0.5, 1.0, 0.5])
    elif kind == "sum":
        outputs[3] = torch.tensor([0.5, 0.5, 0.5])
    elif kind == "huge":
        outputs[0] = torch.tensor([1e30, 0.0, 0.0])
    return {"outputs": outputs}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan", "not finite"),
        ("negative", "row 2: a value outside 0 to 1"),
        ("sum", "row 3: the probabilities add up to 1.5"),
        ("huge", "row 0: a value outside 0 to 1"),
    ],
)
def test_outputs_that_are_no_probabilities_are_excluded_for_all_and_nothing_is_fused(
    tmp_path, monkeypatch, kind, says
):
    it = town(tmp_path)
    it.learners["b"].outgoing = lambda: bad(kind)
    # b lies: its own gate out would stop this
    monkeypatch.setattr("splitfed.rounds.gates.check_finite", lambda *_, **__: None)
    real = __import__("splitfed.rounds.gates", fromlist=["kind_fault"]).kind_fault
    calls = []

    def honest_only(what, tensors):
        found = real(what, tensors)
        calls.append(found)
        return None if found and len([c for c in calls if c]) == 1 and kind != "nan" else found

    monkeypatch.setattr("splitfed.rounds.gates.kind_fault", honest_only)
    run(it)
    for name in "ab":
        assert it.endings[name].received is None
        assert it.history(name)[-1]["outcome"] == "void"
        (fault,) = it.rejected[name]
        assert fault["peer"] == "b"
        assert says in fault["reason"]
        assert fault["round"] == 2


@pytest.mark.parametrize("kind", ["negative", "sum", "huge"])
def test_own_outputs_that_are_no_probabilities_never_leave(tmp_path, kind):
    it = town(tmp_path)

    class Nowhere:
        def release(self, *_, **__):
            raise AssertionError("stored what was to be refused")

    with pytest.raises(Defect, match="release refused"):
        release(
            bad(kind),
            terms=it.terms,
            base=INITIAL,
            run=bytes(32),
            round=3,
            party="a",
            signer=it.secrets["a"],
            outbox=Nowhere(),
            spending=None,
            kind="outputs",
        )


def test_rounding_of_a_row_is_no_lie(tmp_path):
    it = town(tmp_path)
    near = torch.full((4, 3), (1 + ROW_SUM_ERROR / 2) / 3)
    with RunFolder.open(tmp_path / "a", party="a", contract=it.terms.contract) as folder:
        from splitfed.rounds import Unaccounted

        out = release(
            {"outputs": near},
            terms=it.terms,
            base=INITIAL,
            run=bytes(32),
            round=3,
            party="a",
            signer=it.secrets["a"],
            outbox=folder,
            spending=Unaccounted(),
            kind="outputs",
        ).outgoing
    verdict = admit(
        out.offer, out.payload, terms=it.terms, base=INITIAL, run=bytes(32), round=3,
        kind="outputs",
    )  # fmt: skip
    assert verdict.reason is None


def test_an_update_where_outputs_are_due_is_refused_and_the_other_way_round(tmp_path):
    it = town(tmp_path)
    run(it)
    with RunFolder.read_only(tmp_path / "a") as folder:
        entry = {entry.row.kind: entry for entry in folder.ledger.rows()}["outputs"]
        payload = folder.outbox.get(entry.row.root)
    from splitfed.rounds.gates import released_before

    out = released_before(
        payload, entry, terms=it.terms, run=bytes(32), party="a", signer=it.secrets["a"]
    ).outgoing
    verdict = admit(
        out.offer, out.payload, terms=it.terms, base=INITIAL, run=bytes(32), round=3, kind="update"
    )
    assert verdict.tensors is None
    assert "kind 'outputs' instead of 'update'" in verdict.reason


@pytest.mark.parametrize("point", ["save_checkpoint", "release", "save_vote", "close_round"])
@pytest.mark.parametrize("before", [True, False])
def test_a_crash_at_any_step_of_a_fusion_loses_and_doubles_nothing(
    tmp_path, monkeypatch, point, before
):
    calm = town(tmp_path / "calm")
    run(calm)
    it = town(tmp_path)
    real = getattr(RunFolder, point)
    calls = []

    def dying(self, *args, **kwargs):
        if self.party == "b":
            calls.append(point)
        if self.party == "b" and len(calls) == 3 and before:
            raise PowerCut
        result = real(self, *args, **kwargs)
        if self.party == "b" and len(calls) == 3:
            calls.append("dead")
            raise PowerCut
        return result

    monkeypatch.setattr(RunFolder, point, dying)
    it.start("a")
    it.start("b")
    it.wait("b")
    assert isinstance(it.endings["b"], PowerCut)
    monkeypatch.setattr(RunFolder, point, real)
    it.learners["b"] = type(it.learners["b"])(2.0)
    it.start("b")
    it.wait()
    for name in "ab":
        ending = it.endings[name]
        assert not isinstance(ending, BaseException), ending
        for party, tensors in calm.endings[name].received.items():
            assert digest(ending.received[party]) == digest(tensors)
        with RunFolder.read_only(tmp_path / name) as folder:
            assert [row.row.kind for row in folder.ledger.rows()] == ["update", "update", "outputs"]


def test_a_finished_party_that_runs_again_still_holds_what_it_received(tmp_path):
    it = town(tmp_path)
    run(it)
    first = {party: digest(tensors) for party, tensors in it.endings["a"].received.items()}
    it.learners["a"] = type(it.learners["a"])(1.0)
    run(it, "a")
    assert {p: digest(t) for p, t in it.endings["a"].received.items()} == first
    assert it.learners["a"].prepared == []


def test_whoever_is_left_alone_before_the_fusion_fuses_nothing(tmp_path):
    it = town(tmp_path)

    def cut(round):
        if round == 2:
            raise PowerCut

    it.learners["b"].crash = cut
    it.start("a", patience=0.2, on_absent="finish-alone")
    it.start("b")
    it.wait()
    ending = it.endings["a"]
    assert (ending.outcome, ending.received) == ("alone", None)
    assert [row["kind"] for row in it.history("a")] == ["update", "update"]


def test_a_peer_that_vanishes_at_the_fusion_leaves_all_rounds_closed(tmp_path):
    it = town(tmp_path)

    def cut(round):
        if round == -1:
            raise PowerCut

    it.learners["b"].crash = cut
    it.start("a", patience=0.2, on_absent="finish-alone")
    it.start("b")
    it.wait()
    ending = it.endings["a"]
    assert (ending.outcome, ending.received) == ("alone", None)
    assert [row["outcome"] for row in it.history("a")] == ["agreed", "agreed"]


def test_a_crash_while_alone_after_a_fusion_fell_through_doubles_no_round(tmp_path):
    """The fusion between two rounds never took place; what was trained since is not its."""
    ends = {}
    for kill in (False, True):
        it = town(tmp_path / str(kill), every=1, rounds=3)

        def cut(round):
            if round == -1:
                raise PowerCut

        it.learners["b"].crash = cut
        if kill:
            real = RunFolder.save_checkpoint
            calls = []

            def dying(self, checkpoint, real=real, calls=calls):
                real(self, checkpoint)
                if self.party == "a" and checkpoint.meta.get("kind") == "update":
                    calls.append(1)
                    if len(calls) == 2:  # round 2, alone
                        raise PowerCut

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(RunFolder, "save_checkpoint", dying)
                it.start("a", patience=0.2, on_absent="finish-alone")
                it.start("b")
                it.wait()
            assert isinstance(it.endings["a"], PowerCut)
            it.learners["a"] = type(it.learners["a"])(1.0)
            it.start("a", patience=0.2, on_absent="finish-alone")
            it.wait("a")
        else:
            it.start("a", patience=0.2, on_absent="finish-alone")
            it.start("b")
            it.wait()
        assert it.endings["a"].outcome == "alone"
        assert it.learners["a"].trained == ([3] if kill else [1, 2, 3])
        ends[kill] = digest(it.learners["a"].values)
    assert ends[False] == ends[True]


def test_rounds_can_be_added_after_a_fusion_and_end_in_another(tmp_path):
    it = town(tmp_path)
    run(it)
    from dataclasses import replace

    it.terms = replace(it.terms, rounds=3)
    for name in "ab":
        it.learners[name] = type(it.learners[name])(it.learners[name].step)
    run(it)
    for name in "ab":
        assert it.learners[name].trained == [3]
        assert [row["kind"] for row in it.history(name)] == [
            "update", "update", "outputs", "update", "outputs",
        ]  # fmt: skip
        assert sorted(it.endings[name].received) == ["a", "b"]
