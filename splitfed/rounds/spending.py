"""What the round engine asks of privacy accounting, and nothing more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from splitfed.store import ReleaseRow


class Spending(Protocol):
    """The account that a party's releases are paid from."""

    def allow(self, run: bytes, round: int, kind: str) -> None:
        """Make sure that the release of ``round`` can be paid, before it is begun.

        Raises:
            BudgetExceeded: it cannot; nothing was trained, nothing will be sent.
        """
        ...

    def debit(self, run: bytes, row: ReleaseRow) -> None:
        """Pay for a release, durably and once, before it is recorded and sent.

        Raises:
            BudgetExceeded: another run spent it meanwhile.
            FolderDiverged: this release was paid for with other bytes.
        """
        ...

    @property
    def public_steps(self) -> bool:
        """Whether how many steps a round takes is public, and may be told to peers."""
        ...

    @property
    def standing(self) -> dict[str, Any] | None:
        """Where the data set's budget stands, as far as it was computed last: ``data_id``,
        ``spent_epsilon``, ``budget_epsilon``. None without a budget. Any thread may ask."""
        ...

    def epsilon(self, kinds: Sequence[str]) -> float | None:
        """ε of releases of these kinds together; None without privacy."""
        ...


class Unaccounted:
    """Mode "none": nothing is promised, so nothing is spent."""

    public_steps = True
    standing = None

    def allow(self, run: bytes, round: int, kind: str) -> None:
        """Always."""

    def debit(self, run: bytes, row: ReleaseRow) -> None:
        """Nothing to pay."""

    def epsilon(self, kinds: Sequence[str]) -> float | None:
        """None: there is no guarantee."""
        return None
