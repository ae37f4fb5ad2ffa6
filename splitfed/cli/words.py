"""A round in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitfed.cli.output import size


def whole_round(row: Mapping[str, Any]) -> str:
    """A history row in one line."""
    parts = [f"round {row['round']}: {row['outcome']}"]
    if row["train_loss"] is not None:
        parts.append(f"loss {row['train_loss']:.4f}")
    if row["validation_accuracy"] is not None:
        parts.append(f"validation accuracy {row['validation_accuracy']:.1%}")
    parts.append(f"sent {size(row['bytes_sent'])}")
    parts.append("no privacy" if row["epsilon"] is None else f"epsilon {row['epsilon']:.2f}")
    times = f"train {row['train_s']:.1f} s, exchange {row['exchange_s']:.2f} s"
    parts.append(f"{times}, wait {row['wait_s']:.1f} s")
    return ", ".join(parts)
