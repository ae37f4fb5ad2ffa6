"""The files that splitfed writes: read back as meant, and nobody's comments are lost."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitfed.config import FederationConfig, parse
from splitfed.config.writing import federation_text, party_text, with_party, write_new
from splitfed.errors import ConfigError
from tests.support.files import KEY_A, KEY_B, SIGNING_A, SIGNING_B

TEXTS = st.text(min_size=1, max_size=20)
VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def agreement(**other: Any) -> str:
    values: dict[str, Any] = {
        "name": "trial",
        "rounds": 3,
        "classes": ["cat", "dog"],
        "seed": 7,
        "factory": "splitfed.models:ThreeLayerCNN",
        "arguments": {"classes": 2},
        "shared": ["conv1"],
        "channels": 1,
        "size": (28, 28),
        "mean": (0.5,),
        "std": (0.5,),
        "max_update_norm": 12.0,
        "privacy": {"mode": "none"},
    }
    return federation_text(**{"fusion": {"method": "none"}, **values, **other})


def joined(text: str, name: str = "hospital-a") -> str:
    key, signing = (KEY_A, SIGNING_A) if name == "hospital-a" else (KEY_B, SIGNING_B)
    return with_party(
        text, name, public_key=key, signing_key=signing, address="tcp://a:1", records=9
    )


def test_a_started_agreement_with_its_parties_is_valid_as_it_stands() -> None:
    text = joined(joined(agreement()), "hospital-b").replace("tcp://a:1", "tcp://b:1", 1)
    found = parse(FederationConfig, tomllib.loads(text), "test")
    assert list(found.parties) == ["hospital-a", "hospital-b"]
    assert found.parties["hospital-b"].records == 9


@given(classes=st.lists(TEXTS, max_size=3), arguments=st.dictionaries(TEXTS, VALUES, max_size=3))
def test_any_text_and_any_argument_is_read_back_as_it_was(
    classes: list[str], arguments: dict[str, Any]
) -> None:
    found = tomllib.loads(agreement(classes=classes, arguments=arguments))
    assert found["classes"] == classes
    assert found["model"]["arguments"] == arguments


@given(text=TEXTS)
def test_any_text_in_party_toml_is_read_back_as_it_was(text: str) -> None:
    written = party_text(
        federation=text, party=text, secret_key=text, data_id=text, train=text,
        validation=text, test=text, bind=text,
    )  # fmt: skip
    found = tomllib.loads(written)
    assert {found["party"], found["link"]["bind"], *found["data"].values()} == {text}


def test_joining_keeps_every_character_that_was_there() -> None:
    by_hand = joined(agreement()).replace("rounds = 3", "rounds   =   3   # agreed by phone")
    by_hand += "\n# a last word\n"
    completed = joined(by_hand, "hospital-b")
    assert completed.startswith(by_hand.rstrip("\n"))
    assert completed.count("[parties.hospital-b]") == 1


def test_nobody_joins_twice() -> None:
    with pytest.raises(ConfigError, match="in this agreement already"):
        joined(joined(agreement()))


def test_joining_what_is_no_agreement_is_refused() -> None:
    with pytest.raises(ConfigError, match="mend the syntax"):
        joined("name = ")
    with pytest.raises(ConfigError, match="parties"):
        joined("parties = 3")


def test_an_existing_file_is_never_overwritten(tmp_path: Any) -> None:
    path = tmp_path / "party.toml"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        write_new(path, "theirs")
    assert path.read_text() == "mine"
