"""A party's privacy account: its mechanism's ε, and what the data set may still spend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from splitfed.errors import BudgetExceeded
from splitfed.privacy import Mechanism, Spend, epsilon
from splitfed.rounds import UPDATE
from splitfed.store import Budget, Debit, ReleaseRow, release_id


@dataclass(frozen=True, kw_only=True)
class Limit:
    """The most that all runs on one data set may spend together: (ε, δ)."""

    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class Account:
    """Implements :class:`splitfed.rounds.Spending` over a :class:`splitfed.store.Budget`.

    Attributes:
        mechanism: what this run's releases cost.
        party: own name.
        budget: the data set's durable account; None in a simulation, which releases nothing.
        limit: what must not be exceeded; None: all is recorded, nothing is stopped.
    """

    mechanism: Mechanism
    party: str
    budget: Budget | None = None
    limit: Limit | None = None
    _spent: list[float] = field(default_factory=list, repr=False, compare=False)

    @property
    def public_steps(self) -> bool:
        """Yes for noised steps, whose number is agreed; local steps would give away n."""
        return self.mechanism.mode != "party-update"

    def allow(self, run: bytes, round: int, kind: str) -> None:
        """Compute what one more release would make of the account.

        Raises:
            BudgetExceeded: more than the limit. A release that was paid already may go on.
        """
        if kind == UPDATE:
            self.mechanism.epsilon(round, 0)  # takes a moment; afterwards it is remembered
        if self.budget is None or self.limit is None:
            return
        if self.budget.find(release_id(run, self.party, round, kind)) is None:
            self._check(spends_of(self.budget.debits()), round, kind)

    def debit(self, run: bytes, row: ReleaseRow) -> None:
        """Write the debit; the limit is checked again under the file's lock."""
        if self.budget is None:
            return

        def allowed(debits: tuple[Debit, ...]) -> None:
            if self.limit is not None:
                self._spent[:] = [self._check(spends_of(debits[:-1]), row.round, row.kind)]

        cost = self._cost(row.kind)
        self.budget.spend(
            Debit(
                release=row.release,
                run=run,
                round=row.round,
                kind=row.kind,
                root=row.root,
                mode=self.mechanism.mode,
                unit=self.mechanism.unit,
                sample_rate=cost.sample_rate,
                noise_multiplier=cost.noise_multiplier,
                max_grad_norm=self.mechanism.max_grad_norm,
                steps=cost.steps,
            ),
            allowed,
        )

    def epsilon(self, kinds: Sequence[str]) -> float | None:
        """ε of releases of these kinds together, at the agreement's δ."""
        return released_epsilon(self.mechanism, kinds)

    @property
    def standing(self) -> dict[str, Any] | None:
        """What the last look at the budget found, so that asking costs nothing."""
        if self.budget is None or self.limit is None:
            return None
        return {
            "data_id": self.budget.data_id,
            "spent_epsilon": self._spent[-1] if self._spent else None,
            "budget_epsilon": self.limit.epsilon,
        }

    def row(self) -> dict[str, Any] | None:
        """What report.json says of the data set's account; None without one."""
        if self.budget is None:
            return None
        delta = self.limit.delta if self.limit else self.mechanism.delta
        return standing(self.budget.data_id, self.budget.debits(), delta, self.limit)

    def _cost(self, kind: str) -> Spend:
        """What one release costs. Outputs and private layers of "dp-all" follow from what was
        trained under noise and paid with the rounds: they cost no step more."""
        if kind == UPDATE:
            return self.mechanism.spend(1)
        return self.mechanism.fusion or replace(self.mechanism.spend(1), steps=0)

    def _check(self, before: list[Spend], round: int, kind: str) -> float:
        """What all releases and this one cost together; what they cost is noted."""
        assert self.limit is not None
        assert self.budget is not None
        spent = epsilon(before, self.limit.delta)
        then = epsilon([*before, self._cost(kind)], self.limit.delta)
        self._spent[:] = [spent]
        if then > self.limit.epsilon:
            what, this = f"round {round}", "this round"
            if kind != UPDATE:
                what, this = "the fusion", "this fusion"
            raise BudgetExceeded(
                f"{what} was not begun: the privacy budget of data set "
                f"{self.budget.data_id} is epsilon = {self.limit.epsilon:g} at delta = "
                f"{self.limit.delta:g}; {spent:.4f} is spent, and {this} would make it "
                f"{then:.4f}",
                f"the model so far is kept; raise [data] budget_epsilon in party.toml if your "
                f"institution allows it (the account is in {self.budget.path}), or stop here",
            )
        return then


def released_epsilon(mechanism: Mechanism, kinds: Sequence[str]) -> float:
    """ε of a run's releases so far, by their kinds."""
    updates = sum(kind == UPDATE for kind in kinds)
    return mechanism.epsilon(updates, len(kinds) - updates)


def spends_of(debits: Iterable[Debit]) -> list[Spend]:
    """The debits in the accountant's terms."""
    return [
        Spend(
            sample_rate=debit.sample_rate,
            noise_multiplier=debit.noise_multiplier,
            steps=debit.steps,
        )
        for debit in debits
    ]


def standing(
    data_id: str, debits: Sequence[Debit], delta: float, limit: Limit | None
) -> dict[str, Any]:
    """Where an account stands: what all debits together cost, of how much."""
    return {
        "data_id": data_id,
        "delta": delta,
        "spent_epsilon": epsilon(spends_of(debits), delta),
        "budget_epsilon": None if limit is None else limit.epsilon,
        "releases": len(debits),
        "runs": len({debit.run for debit in debits}),
        "units": sorted({debit.unit for debit in debits}),
    }
