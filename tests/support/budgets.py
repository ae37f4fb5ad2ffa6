"""Privacy budgets for tests: one data set, debits that differ by round, and who allows them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from splitfed.errors import BudgetExceeded
from splitfed.store import Budget, Debit, LedgerEntry, ReleaseRow, release_id
from tests.support.folders import RUN

DIGEST, OTHER = b"\xaa" * 32, b"\xbb" * 32


def opened(file: Path, data_id: str = "chest", digest: bytes = DIGEST, **more: Any) -> Budget:
    settings: dict[str, Any] = {"clock": lambda: 1.5e9, **more}
    return Budget.open(file, data_id=data_id, data_digest=digest, **settings)


def debit_of(round: int, **more: Any) -> Debit:
    fields: dict[str, Any] = {
        "release": release_id(RUN, "a", round, "update"),
        "run": RUN,
        "round": round,
        "kind": "update",
        "root": bytes([round]) * 32,
        "mode": "dp-frozen",
        "unit": "record",
        "sample_rate": 0.1,
        "noise_multiplier": 1.1,
        "max_grad_norm": 1.0,
        "steps": 10,
        **more,
    }
    return Debit(**fields)


def anything(debits: tuple[Debit, ...]) -> None:
    """Allow every spending."""


def nothing(debits: tuple[Debit, ...]) -> None:
    raise BudgetExceeded("too much")


def never(debits: tuple[Debit, ...]) -> None:
    raise AssertionError("asked again")


def at_most(number: int) -> Callable[[tuple[Debit, ...]], None]:
    def allowed(debits: tuple[Debit, ...]) -> None:
        if len(debits) > number:
            raise BudgetExceeded(f"{len(debits)} debits")

    return allowed


def recorded(round: int, **more: Any) -> LedgerEntry:
    """A run folder's ledger row for the release that ``debit_of(round)`` pays."""
    debit = debit_of(round)
    fields: dict[str, Any] = {
        "release": debit.release, "round": round, "kind": "update", "tensors": (),
        "root": debit.root, "size": 1, "epsilon": 0.5, **more,
    }  # fmt: skip
    return LedgerEntry(
        number=round,
        time=1.0,
        row=ReleaseRow(**fields),
        previous=b"p" * 32,
        head=b"h" * 32,
        signature=bytes(64),
    )
