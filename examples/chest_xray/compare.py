"""Print the models of finished runs side by side, from their report.json.

python compare.py hospital-a/runs/hospital-a hospital-b/runs/hospital-b
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = {
    "local_only": "trained alone",
    "partial": "shared layers",
    "fused": "fused",
    "federated": "noised model",
}


def cell(row: dict[str, Any] | None) -> str:
    """Accuracy with its 95 % interval, balanced accuracy and AUROC."""
    if row is None:
        return "–"
    return (
        f"{row['accuracy']:.1%} ({row['accuracy_low']:.1%} to {row['accuracy_high']:.1%}), "
        f"{row['balanced_accuracy']:.1%}, {row['auroc']:.3f}"
    ).replace("%", "")


def line(report: dict[str, Any]) -> str:
    """One row of the table."""
    verdict = report["verdict"]
    said = "not measured"
    if verdict is not None:
        low, high = 100 * verdict["low"], 100 * verdict["high"]
        compared = COLUMNS[verdict["compared"]]
        said = f"{compared}: {verdict['answer']} ({low:+.1f} to {high:+.1f})"
    cells = [cell(report["evaluation"].get(key)) for key in COLUMNS]
    words = [report["party"], *cells, said, COLUMNS.get(report["kept"], report["kept"])]
    return "| " + " | ".join(words) + " |"


def main(folders: list[str]) -> None:
    """Read the reports, print the table."""
    head = ["hospital", *COLUMNS.values(), "verdict on", "kept"]
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for folder in folders:
        print(line(json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main(sys.argv[1:])
