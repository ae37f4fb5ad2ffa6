"""Differing agreements and checks: both sides see, and a check disturbs nothing."""

from __future__ import annotations

import json

import pytest

from splitfed.errors import ContractMismatch, Difference, KeyInUse
from splitfed.transport.events import (
    Failed,
    Greeted,
    LinkBroken,
    StatusChanged,
)
from splitfed.transport.frames import Type
from tests.support.talk import Net, Party, channel_of, joined, signed_vote


def meet(alice: Party, bob: Party) -> Net:
    """Bob dials Alice and everything is said that there is to say."""
    net = Net()
    net.connect(bob, alice)
    net.pump()
    return net


def differing(field: str) -> tuple[Net, Party, Party]:
    documents = {
        "contract": (json.dumps({"rounds": 10}), json.dumps({"rounds": 12})),
        "roster": (json.dumps({"bob": "k1"}), json.dumps({"bob": "k2"})),
    }[field]
    mine = {field: b"1" * 32, f"{field}_document": documents[0]}
    theirs = {field: b"2" * 32, f"{field}_document": documents[1]}
    alice, bob = Party("alice", "bob", **mine), Party("bob", "alice", **theirs)
    return meet(alice, bob), alice, bob


@pytest.mark.parametrize(("field", "key"), [("contract", "rounds"), ("roster", "parties.bob")])
def test_both_sides_see_both_sides_of_a_differing_agreement(field: str, key: str) -> None:
    _net, alice, bob = differing(field)
    mine, theirs = alice.only(Failed).error, bob.only(Failed).error
    assert isinstance(mine, ContractMismatch)
    assert isinstance(theirs, ContractMismatch)
    (row,) = mine.differences
    assert row.key == key
    assert theirs.differences == (Difference(key, row.theirs, row.mine),)
    assert not alice.of(Greeted)
    assert not bob.of(Greeted)
    assert alice.talk.settled
    assert bob.talk.settled


def test_nothing_but_greetings_and_goodbyes_crosses_where_agreements_differ() -> None:
    net, alice, bob = differing("contract")
    alice.talk.vote(1, *signed_vote("alice", b"secret"))
    bob.talk.vote(1, *signed_vote("bob", b"secret"))
    net.tick(30.0)
    assert set(net.types()) == {Type.HELLO, Type.WELCOME, Type.GOODBYE}


def test_a_difference_whose_other_side_vanishes_is_reported_by_digests() -> None:
    net = Net()
    alice = Party("alice", "bob", contract_document="{}")
    bob = Party("bob", "alice", contract=b"x" * 32)
    net.lose = lambda frame: frame.type is Type.GOODBYE
    net.connect(bob, alice)
    net.pump()
    assert not alice.of(Failed)
    net.tick(10.0)
    error = alice.only(Failed).error
    assert isinstance(error, ContractMismatch)
    assert error.differences[0].theirs == (b"x" * 8).hex()


@pytest.mark.parametrize(
    ("field", "word"), [({"initial": b"x" * 32}, "initial"), ({"versions": (7, 9)}, "protocol")]
)
def test_other_weights_or_versions_are_fatal_on_both_sides_and_name_the_software(
    field: dict[str, object], word: str
) -> None:
    alice = Party("alice", "bob", software={"torch": "2.15"})
    bob = Party("bob", "alice", software={"torch": "2.9"}, **field)
    meet(alice, bob)
    for party in (alice, bob):
        error = party.only(Failed).error
        assert isinstance(error, ContractMismatch)
        assert word in error.message
        assert "2.15" in error.message
        assert "2.9" in error.message


def test_a_check_is_answered_and_disturbs_nothing() -> None:
    net, alice, bob, line = joined()
    session, before = channel_of(alice, line).session, list(alice.events)
    checker = Party("bob", "alice", purpose="check", folder=b"f" * 16)
    net.connect(checker, alice)
    net.pump()
    assert checker.only(Greeted).greeting.name == "alice"
    assert checker.talk.current is None
    assert channel_of(alice, line).session == session
    assert alice.events == before
    assert not bob.of(LinkBroken)


def test_a_check_with_another_agreement_fails_the_checker_only() -> None:
    net, alice, _bob, _ = joined(contract_document='{"rounds": 10}')
    checker = Party(
        "bob", "alice", purpose="check", contract=b"x" * 32, contract_document='{"rounds": 11}'
    )
    net.connect(checker, alice)
    net.pump()
    net.tick(20.0)
    error = checker.only(Failed).error
    assert isinstance(error, ContractMismatch)
    assert error.differences == (Difference("rounds", "11", "10"),)
    assert not alice.of(Failed)
    assert alice.talk.current is not None


def test_a_checker_that_listens_learns_and_the_run_that_dialed_waits_for_a_run() -> None:
    net = Net()
    checker, bob = Party("alice", "bob", purpose="check"), Party("bob", "alice")
    line = net.connect(bob, checker)
    net.pump()
    assert checker.only(Greeted).greeting.purpose == "run"
    assert not bob.events
    net.cut(line)
    alice = Party("alice", "bob")
    net.connect(bob, alice)
    net.pump()
    assert bob.only(Greeted).greeting.purpose == "run"


def test_a_checker_that_listens_sees_the_differences_and_the_run_goes_on() -> None:
    net = Net()
    checker = Party(
        "alice", "bob", purpose="check", contract=b"x" * 32, contract_document='{"rounds": 11}'
    )
    bob = Party("bob", "alice", contract_document='{"rounds": 10}')
    line = net.connect(bob, checker)
    net.pump()
    error = checker.only(Failed).error
    assert isinstance(error, ContractMismatch)
    assert error.differences == (Difference("rounds", "11", "10"),)
    assert not bob.of(Failed)
    net.cut(line)
    net.connect(bob, Party("alice", "bob", contract_document='{"rounds": 10}'))
    net.pump()
    assert bob.only(Greeted)


def test_two_checks_see_each_other() -> None:
    alice = Party("alice", "bob", purpose="check")
    bob = Party("bob", "alice", purpose="check")
    meet(alice, bob)
    assert alice.only(Greeted)
    assert bob.only(Greeted)


def test_a_check_under_the_own_key_is_told_what_the_run_does_and_with_whom() -> None:
    run = Party("alice", "alice", links=lambda: {"bob": "connected"})
    check = Party("alice", "alice", purpose="check")
    meet(run, check)
    assert check.only(Greeted).greeting.purpose == "run"
    status = check.only(StatusChanged).status
    assert status.links == {"bob": "connected"}


def test_nobody_else_is_told_with_whom_a_run_is_connected() -> None:
    net, alice, _bob, _ = joined(links=lambda: {"carol": "connected"})
    net.tick(10.0)
    net.connect(Party("bob", "alice", purpose="check"), alice)
    net.pump()
    assert all(f.content.status.links is None for f in net.of(Type.STATUS))


def test_a_second_run_under_the_own_key_is_refused() -> None:
    net = Net()
    run, second = Party("alice", "alice"), Party("alice", "alice")
    net.connect(second, run)
    net.pump()
    assert isinstance(second.only(Failed).error, KeyInUse)
    assert run.talk.current is None
