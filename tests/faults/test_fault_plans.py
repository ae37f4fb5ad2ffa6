"""Whatever goes wrong and in whatever order: both parties end as if nothing had happened."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.plans import (
    MESSAGES,
    POINTS,
    WITHIN,
    Cut,
    Die,
    Hold,
    Plan,
    Twice,
    carry_out,
    plan_of,
    read_plan,
    text_of,
)
from tests.support.crash import IMAGES
from tests.support.trials import PAIR, End, after_the_last_round, undisturbed

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # they are scripts

from shrinking import shrink

MESSAGE = st.integers(1, MESSAGES)
FAULT = st.one_of(
    st.builds(
        Die, st.sampled_from(PAIR), st.integers(0, POINTS), st.sampled_from(IMAGES), st.booleans()
    ),
    st.builds(Cut, MESSAGE, st.booleans()),
    st.builds(Twice, MESSAGE),
    st.builds(Hold, MESSAGE, st.integers(1, 8)),
)


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, End]:
    return undisturbed(tmp_path_factory.mktemp("calm"))


def check(plan: Plan, calm: dict[str, End], within: float = WITHIN) -> list[tuple[str, bool]]:
    """Carry out a plan; returns who died, and whether it had closed all rounds by then."""
    with tempfile.TemporaryDirectory() as path:
        found, deaths = carry_out(Path(path), plan, calm, within)
    assert not found, "\n".join([*found, "under this plan:", text_of(plan)])
    return deaths


@settings(max_examples=20)
@given(plan=st.lists(FAULT, min_size=1, max_size=5))
def test_any_few_faults_change_nothing(calm: dict[str, End], plan: Plan) -> None:
    assert len(check(plan, calm)) <= sum(isinstance(fault, Die) for fault in plan)


@pytest.mark.parametrize("seed", range(3))
def test_parties_that_die_ten_times_end_with_the_same_models(
    calm: dict[str, End], seed: int
) -> None:
    deaths = [fault for fault in plan_of(seed, 500) if isinstance(fault, Die)][:10]
    plan: Plan = [
        Die(PAIR[index % 2], 6 + fault.point % 6, fault.image, fault.late)
        for index, fault in enumerate(deaths)
    ]
    assert len(check(plan, calm)) == 10


def test_both_parties_die_after_the_last_round_and_end_confirmed(
    tmp_path: Path, calm: dict[str, End]
) -> None:
    last = after_the_last_round(tmp_path)
    deaths = check([Die(name, last[name], "lost") for name in PAIR], calm, within=20.0)
    assert sorted(deaths) == [("a", True), ("b", True)]


def test_a_plan_comes_back_from_its_text_and_from_its_seed() -> None:
    for seed in range(200):
        plan = plan_of(seed, 12)
        assert read_plan(text_of(plan)) == plan == plan_of(seed, 12)
    named: Plan = [Die("a", "remove 000002.safetensors", "torn", True), Die("b", "commit", "lost")]
    assert read_plan(text_of(named)) == named


def test_a_failing_plan_shrinks_to_what_makes_it_fail() -> None:
    guilty = [Die("a", 9, "lost"), Cut(4, True)]
    plan = [*plan_of(1, 30), guilty[0], *plan_of(2, 30), guilty[1], *plan_of(3, 30)]
    asked: list[Plan] = []

    def fails(some: Plan) -> bool:
        asked.append(some)
        return all(fault in some for fault in guilty)

    assert shrink(plan, fails) == guilty
    assert len(asked) < len(plan) * 3
