"""Two documents side by side."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from splitfed.differences import ABSENT, differences
from splitfed.errors import Difference

scalars = st.none() | st.booleans() | st.integers() | st.text(max_size=5)
documents = st.recursive(
    st.dictionaries(st.text(max_size=4), scalars, max_size=3),
    lambda inner: st.dictionaries(st.text(max_size=4), inner | scalars, max_size=3),
    max_leaves=8,
)


def test_only_what_differs_is_shown_with_dotted_keys() -> None:
    mine = {"rounds": 10, "aggregation": {"rule": "mean", "bound": 1.0}, "classes": ["a", "b"]}
    theirs = {"rounds": 10, "aggregation": {"rule": "mean", "bound": 2.0}, "classes": ["b", "a"]}
    assert differences(mine, theirs) == (
        Difference("aggregation.bound", "1.0", "2.0"),
        Difference("classes", '["a", "b"]', '["b", "a"]'),
    )


def test_a_field_that_one_side_lacks_is_absent() -> None:
    assert differences({"a": 1}, {}) == (Difference("a", "1", ABSENT),)
    assert differences({}, {"a": {"b": None}}) == (Difference("a.b", ABSENT, "null"),)


def test_an_object_against_a_scalar_shows_both() -> None:
    assert differences({"a": {"b": 1}}, {"a": 1}) == (
        Difference("a", ABSENT, "1"),
        Difference("a.b", "1", ABSENT),
    )


def test_an_empty_object_differs_from_none_at_all() -> None:
    assert differences({"a": {}}, {}) == (Difference("a", "{}", ABSENT),)


def test_control_characters_of_a_stranger_are_shown_and_not_sent_to_the_terminal() -> None:
    (row,) = differences({}, {"\x1b[2J": "\x1b[31m"})
    assert row == Difference("\\u001b[2J", ABSENT, '"\\u001b[31m"')


def test_long_values_are_cut() -> None:
    (row,) = differences({"a": "x" * 10_000}, {"a": "y"})
    assert len(row.mine) == 201
    assert row.mine.endswith("…")


def test_values_that_differ_only_after_the_cut_are_still_shown() -> None:
    assert len(differences({"a": "x" * 10_000}, {"a": "x" * 10_001})) == 1


def test_a_long_value_is_cut_to_where_it_differs() -> None:
    classes = [f"class {number}" for number in range(100)]
    (row,) = differences({"classes": [*classes, "last"]}, {"classes": [*classes, "least"]})
    assert "last" in row.mine
    assert "least" in row.theirs
    assert max(len(row.mine), len(row.theirs)) <= 202


def test_a_document_nested_beyond_reason_ends() -> None:
    deep: dict[str, Any] = {"a": 1}
    for _ in range(500):
        deep = {"a": deep}
    (row,) = differences(deep, {})
    assert row.key.count("a") <= 32


@given(documents)
def test_a_document_does_not_differ_from_itself(document: dict[str, Any]) -> None:
    assert differences(document, document) == ()


@given(documents, documents)
def test_the_other_side_sees_the_same_rows_the_other_way_round(
    mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    rows = differences(mine, theirs)
    assert rows == tuple(Difference(d.key, d.theirs, d.mine) for d in differences(theirs, mine))
