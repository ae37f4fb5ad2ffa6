"""A party's privacy account: its mechanism's ε, and what the data set may still spend."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from splitfed.errors import BudgetExceeded
from splitfed.privacy import Mechanism, Spend, epsilon
from splitfed.store import Budget, Debit, ReleaseRow, release_id

UPDATE = "update"


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

    @property
    def public_steps(self) -> bool:
        """Yes for noised steps, whose number is agreed; local steps would give away n."""
        return self.mechanism.mode != "party-update"

    def allow(self, run: bytes, round: int) -> None:
        """Compute what one more round would make of the account.

        Raises:
            BudgetExceeded: more than the limit. A release that was paid already may go on.
        """
        self.mechanism.epsilon(round)  # takes a moment; afterwards it is remembered
        if self.budget is None or self.limit is None:
            return
        if self.budget.find(release_id(run, self.party, round, UPDATE)) is None:
            self._check(spends_of(self.budget.debits()), round)

    def debit(self, run: bytes, row: ReleaseRow) -> None:
        """Write the debit; the limit is checked again under the file's lock."""
        if self.budget is None:
            return

        def allowed(debits: tuple[Debit, ...]) -> None:
            if self.limit is not None:
                self._check(spends_of(debits[:-1]), row.round)

        self.budget.spend(
            Debit(
                release=row.release,
                run=run,
                round=row.round,
                kind=row.kind,
                root=row.root,
                mode=self.mechanism.mode,
                unit=self.mechanism.unit,
                sample_rate=self.mechanism.sample_rate,
                noise_multiplier=self.mechanism.noise_multiplier,
                max_grad_norm=self.mechanism.max_grad_norm,
                steps=self.mechanism.steps_per_round,
            ),
            allowed,
        )

    def epsilon(self, releases: int) -> float | None:
        """ε of ``releases`` rounds of this run, at the agreement's δ."""
        return self.mechanism.epsilon(releases)

    def row(self) -> dict[str, Any] | None:
        """What report.json says of the data set's account; None without one."""
        if self.budget is None:
            return None
        delta = self.limit.delta if self.limit else self.mechanism.delta
        return standing(self.budget.data_id, self.budget.debits(), delta, self.limit)

    def _check(self, before: list[Spend], round: int) -> None:
        assert self.limit is not None
        assert self.budget is not None
        spent = epsilon(before, self.limit.delta)
        then = epsilon([*before, self.mechanism.spend(1)], self.limit.delta)
        if then > self.limit.epsilon:
            raise BudgetExceeded(
                f"round {round} was not begun: the privacy budget of data set "
                f"{self.budget.data_id} is epsilon = {self.limit.epsilon:g} at delta = "
                f"{self.limit.delta:g}; {spent:.4f} is spent, and this round would make it "
                f"{then:.4f}",
                f"the model so far is kept; raise [data] budget_epsilon in party.toml if your "
                f"institution allows it (the account is in {self.budget.path}), or stop here",
            )


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
