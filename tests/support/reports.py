"""Reports as a run would write them, with every kind of ending."""

from __future__ import annotations

import math
from typing import Any


def score_row(accuracy: float, spread: float = 0.012, loss: float = 0.2) -> dict[str, Any]:
    return {
        "accuracy": accuracy,
        "accuracy_low": max(accuracy - spread, 0.0),
        "accuracy_high": min(accuracy + spread * 0.9, 1.0),
        "loss": loss,
    }


def history_row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "round": number,
        "outcome": "agreed",
        "train_loss": 1.9 * math.exp(-0.45 * number) + 0.05,
        "validation_accuracy": 0.955 - 0.6 * math.exp(-0.7 * number),
        "train_s": 0.9,
        "exchange_s": 0.012,
        "wait_s": 0.08,
        "bytes_sent": 78_100 + 37 * number,
        "bytes_received": 78_060,
        "epsilon": None,
        **changes,
    }


def tensor(name: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "shape": list(shape), "dtype": "float32"}


def sample_report(party: str = "hospital-a", rounds: int = 10, **changes: Any) -> dict[str, Any]:
    """A finished two-party run that helped; ``changes`` replace top-level keys."""
    return {
        "schema": 1,
        "party": party,
        "peers": ["hospital-b" if party == "hospital-a" else "hospital-a"],
        "rounds": rounds,
        "contract": "3fa2b8c14d" * 6 + "9e07",
        "classes": [str(digit) for digit in range(10)],
        "seed": 7,
        "model": {
            "factory": "splitfed.models:ThreeLayerCNN",
            "shared": [
                tensor("conv1.bias", 32),
                tensor("conv1.weight", 32, 1, 3, 3),
                tensor("conv2.bias", 64),
                tensor("conv2.weight", 64, 32, 3, 3),
            ],
            "private": [
                tensor("classifier.bias", 10),
                tensor("classifier.weight", 10, 576),
                tensor("conv3.bias", 64),
                tensor("conv3.weight", 64, 64, 3, 3),
            ],
            "shared_parameters": 18_816,
            "private_parameters": 42_698,
        },
        "evaluation": {
            "test_size": 1500,
            "local_only": score_row(0.924, loss=0.261),
            "partial": score_row(0.945, loss=0.183),
            "full": score_row(0.953, loss=0.151),
            "outputs_only": None,
            "fused": None,
        },
        "verdict": {"answer": "helped", "compared": "partial", "low": 0.011, "high": 0.032},
        "history": [history_row(number + 1) for number in range(rounds)],
        "traffic": {
            "payload_bytes_sent": 752_640,
            "wire_bytes_sent": 783_001,
            "payload_bytes_received": 752_640,
            "wire_bytes_received": 782_640,
        },
        "time": {
            "wall_s": 24.6,
            "start_s": 3.1,
            "train_s": 9.8,
            "baseline_s": 9.4,
            "exchange_s": 0.14,
            "wait_s": 0.8,
            "evaluate_s": 0.9,
        },
        "privacy": {
            "mode": "none",
            "unit": None,
            "epsilon": None,
            "delta": None,
            "noise_multiplier": None,
            "max_grad_norm": None,
            "sample_rate": None,
            "steps": None,
            "accountant": None,
            "sentence": "NO PRIVACY GUARANTEE: the shared tensors leave as they were trained. "
            "Whoever sees them can learn about single training images. Images, labels, counts "
            "and private layers stay.",
        },
        "faults": {"reconnects": 0, "resumes": 0, "void_rounds": 0, "rejected": []},
        "outcome": "agreed",
        "confirmed": True,
        "ended_because": None,
        **changes,
    }


def troubled_report(party: str = "hospital-b") -> dict[str, Any]:
    """Void rounds, a rejected update, a broken line, and the rest of the rounds alone."""
    outcomes = ["agreed"] * 3 + ["void"] + ["agreed"] * 2 + ["void"] * 2 + ["alone"] * 4
    history = [
        history_row(
            i + 1,
            outcome=outcome,
            **({"bytes_sent": 0, "bytes_received": 0} if outcome == "alone" else {}),
        )
        for i, outcome in enumerate(outcomes)
    ]
    reason = "‖update‖ = 312.4 exceeds max_update_norm = 9"
    report = sample_report(party, rounds=12)
    return {
        **report,
        "history": history,
        "evaluation": {
            **report["evaluation"],
            "local_only": score_row(0.944),
            "partial": score_row(0.921),
            "full": None,
        },
        "verdict": {"answer": "did not help", "compared": "partial", "low": -0.034, "high": -0.013},
        "faults": {
            "reconnects": 2,
            "resumes": 1,
            "void_rounds": 3,
            "rejected": [
                {"round": r, "peer": report["peers"][0], "reason": reason} for r in (4, 7, 8)
            ],
        },
        "outcome": "alone",
        "confirmed": False,
        "ended_because": "3 rounds were void",
    }
