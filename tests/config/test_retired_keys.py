"""Keys that a party had before: a chain of statements, or a revocation that all wrote down."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest

from splitfed.config import FederationConfig, parse
from splitfed.errors import ConfigError
from splitfed.transport.keys import make_secret
from tests.support.files import FEDERATION, KEY_B, SIGNING_B
from tests.support.keyed import retired

A = "hospital-a"
FIRST, SECOND, NOW = (make_secret() for _ in range(3))
CHAIN = [retired(A, FIRST, SECOND.public), retired(A, SECOND, NOW.public)]


def document(*entries: dict[str, Any], **present: Any) -> dict[str, Any]:
    """The agreement of the tests, with these retired keys of hospital-a."""
    read = tomllib.loads(FEDERATION)
    block = {"public_key": NOW.curve_public, "signing_key": NOW.signing_public, **present}
    read["parties"][A] |= {**block, "retired": list(entries)}
    return read


def agreement(*entries: dict[str, Any], **present: Any) -> FederationConfig:
    return parse(FederationConfig, document(*entries, **present), "federation.toml")


def faults(*entries: dict[str, Any], **present: Any) -> dict[str, str]:
    """What is wrong, by key."""
    with pytest.raises(ConfigError) as caught:
        agreement(*entries, **present)
    assert all(fault.file == "federation.toml" for fault in caught.value.faults)
    return {fault.key: f"{fault.value}: {fault.cure}" for fault in caught.value.faults}


def test_a_chain_of_two_statements_leads_to_the_present_key() -> None:
    keys = agreement(*CHAIN).parties[A].keys
    assert keys.present == NOW.signing_public
    assert keys.retired == (FIRST.signing_public, SECOND.signing_public)
    assert keys.revoked == ()


def test_a_revoked_key_needs_no_statement_and_counts_as_no_retired_one() -> None:
    keys = agreement(CHAIN[0], retired(A, SECOND, None)).parties[A].keys
    assert keys.retired == (FIRST.signing_public,)
    assert keys.revoked == (SECOND.signing_public,)


OTHER = make_secret()
WRONG: dict[str, Callable[[], dict[str, str]]] = {
    "by another key": lambda: faults(
        {**CHAIN[1], "statement": retired(A, OTHER, NOW.public)["statement"]}
    ),
    "for another party": lambda: faults(retired("hospital-b", SECOND, NOW.public)),
    "over another signing key": lambda: faults(CHAIN[1], signing_key=OTHER.signing_public),
    "over another CURVE key": lambda: faults(CHAIN[1], public_key=OTHER.curve_public),
    "with another old CURVE key": lambda: faults({**CHAIN[1], "public_key": OTHER.curve_public}),
    "one link of the chain left out": lambda: faults(CHAIN[0]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_statement_is_refused_with_its_place_and_its_cure(case: str) -> None:
    found = WRONG[case]()
    assert set(found) == {f"parties.{A}.retired[0].statement"}
    assert "splitfed keys rotate" in found[f"parties.{A}.retired[0].statement"]


def test_statements_in_the_wrong_order_are_all_named() -> None:
    found = faults(CHAIN[1], CHAIN[0])
    assert set(found) == {f"parties.{A}.retired[{number}].statement" for number in (0, 1)}
    assert "(retired[1])" in found[f"parties.{A}.retired[0].statement"]


def test_an_entry_has_a_statement_or_is_revoked_and_never_both_or_neither() -> None:
    bare = {key: CHAIN[1][key] for key in ("public_key", "signing_key")}
    for entry in (bare, {**CHAIN[1], "revoked": True}, {**bare, "revoked": False}):
        found = faults(entry)
        assert all(key.startswith(f"parties.{A}.retired[0]") for key in found), found
        assert "revoked" in "".join(found) + "".join(found.values())


@pytest.mark.parametrize(
    ("change", "key", "told"),
    [
        ({"statement": "AB" * 64}, "statement", "128 hexadecimal"),
        ({"statement": "ab"}, "statement", "128 hexadecimal"),
        ({"signing_key": "x"}, "signing_key", "64 hexadecimal"),
        ({"public_key": "x"}, "public_key", "40 characters"),
        ({"signed": "x"}, "signed", "unknown key"),
    ],
)
def test_a_malformed_entry_is_named_to_the_key(change: dict[str, str], key: str, told: str) -> None:
    found = faults({**CHAIN[1], **change})
    assert told in found[f"parties.{A}.retired[0].{key}"]


@pytest.mark.parametrize("key", ["public_key", "signing_key"])
def test_a_retired_key_never_comes_back(key: str) -> None:
    again = {"public_key": NOW.curve_public, "signing_key": NOW.signing_public}
    entry = {**retired(A, SECOND, None), key: again[key]}
    assert "also that of hospital-a" in faults(entry)[f"parties.{A}.retired[0].{key}"]
    twice = [
        retired(A, FIRST, None),
        {**retired(A, SECOND, None), key: retired(A, FIRST, None)[key]},
    ]
    found = faults(*twice)[f"parties.{A}.retired[1].{key}"]
    assert "also that of hospital-a, retired[0]" in found


def test_a_retired_key_is_no_other_partys() -> None:
    entry = {"public_key": KEY_B, "signing_key": SIGNING_B, "revoked": True}
    found = faults(entry)
    assert "also that of hospital-b" in found[f"parties.{A}.retired[0].signing_key"]
    assert "also that of hospital-b" in found[f"parties.{A}.retired[0].public_key"]


def test_a_wrong_statement_is_told_together_with_every_other_fault() -> None:
    read = document(CHAIN[0])
    read["rounds"] = 0
    with pytest.raises(ConfigError) as caught:
        parse(FederationConfig, read, "federation.toml")
    assert {fault.key for fault in caught.value.faults} == {
        "rounds", f"parties.{A}.retired[0].statement"
    }  # fmt: skip


def test_a_list_without_end_is_refused() -> None:
    found = faults(*[retired(A, FIRST, None)] * 65)
    assert "64 at most" in found[f"parties.{A}.retired"]


def test_the_roster_covers_every_word_of_the_list_and_the_contract_none() -> None:
    plain, chain = agreement(), agreement(*CHAIN)
    revoked = agreement(CHAIN[0], retired(A, SECOND, None))
    both = agreement(retired(A, FIRST, None), retired(A, SECOND, None))
    one = agreement(CHAIN[1])
    rosters = {each.roster_digest for each in (plain, chain, revoked, both, one)}
    assert len(rosters) == 5
    assert len({each.contract_digest for each in (plain, chain, revoked, both, one)}) == 1
    assert plain.roster()[A] == {
        "public_key": NOW.curve_public, "signing_key": NOW.signing_public
    }  # fmt: skip


def test_a_fingerprint_stands_for_the_name_and_all_keys_of_one_party() -> None:
    plain = agreement()
    prints = [
        each.fingerprint(A)
        for each in (
            plain,
            agreement(*CHAIN),
            agreement(CHAIN[0], retired(A, SECOND, None)),
            agreement(signing_key=OTHER.signing_public),
            agreement(public_key=OTHER.curve_public),
        )
    ]
    assert len({*prints, plain.fingerprint("hospital-b")}) == 6
    assert agreement(records=7, address="tcp://elsewhere:1").fingerprint(A) == prints[0]
    groups = prints[0].split(" ")
    assert [len(group) for group in groups] == [4] * 8
