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


def full_row(accuracy: float, per_class: list[int], **row: Any) -> dict[str, Any]:
    """A row with every figure: ``per_class`` images of each class, of which about the accuracy
    are right, and the wrong ones taken for the next class."""
    size = len(per_class)
    confusion = [[0] * size for _ in per_class]
    for index, images in enumerate(per_class):
        right = min(images, round(images * (accuracy - 0.02 + 0.04 * (index % 3) / 2)))
        confusion[index][index] = right
        confusion[index][(index + 1) % size] += images - right
    said = [sum(column) for column in zip(*confusion, strict=True)]
    recalls = [confusion[i][i] / n if n else None for i, n in enumerate(per_class)]
    known = [recall for recall in recalls if recall is not None]
    return {
        **score_row(accuracy, **row),
        "balanced_accuracy": sum(known) / len(known),
        "auroc": min(1.0, accuracy + 0.03) if size == 2 else None,
        "calibration_error": 0.031,
        "per_class": [
            {
                "class": i,
                "images": n,
                "recall": recalls[i],
                "precision": confusion[i][i] / said[i] if said[i] else None,
            }
            for i, n in enumerate(per_class)
        ],
        "confusion": confusion,
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
            "local_only": full_row(0.924, [150] * 10, loss=0.261),
            "partial": full_row(0.945, [150] * 10, loss=0.183),
            "full": full_row(0.953, [150] * 10, loss=0.151),
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


def away_report(party: str = "hospital-c") -> dict[str, Any]:
    """One of four that was away for some rounds and came back, while one was shut out."""
    quiet = {"train_loss": None, "validation_accuracy": None, "bytes_sent": 0, "bytes_received": 0}
    times = dict.fromkeys(("train_s", "exchange_s", "wait_s"), 0.0)
    report = sample_report(party, peers=["hospital-a", "hospital-b", "hospital-d"])
    for number in (4, 5, 6, 9):
        report["history"][number - 1] |= {"outcome": "missed", **quiet, **times}
    three = ["hospital-a", "hospital-b", "hospital-c"]
    report["faults"] |= {
        "rejected": [{"round": 2, "peer": "hospital-d", "reason": "signed two updates"}],
        "views": [
            {"view": 1, "round": 2, "members": three, "left_out": ["hospital-d"]},
            {"view": 4, "round": 7, "members": three, "left_out": ["hospital-d"]},
        ],
        "quarantined": [{"peer": "hospital-d", "reason": "signed two updates"}],
    }
    return report


SPENDING = {
    "record": (2.6253, 3.5614, 4.3109, 4.9631, 5.5528, 6.0979, 6.6091, 7.0934, 7.5557, 7.9994),
    "party": (0.6045, 0.8785, 1.0949, 1.2812, 1.4479, 1.6007, 1.7428, 1.8765, 2.0032, 2.1241),
}
"""ε at 1e-5 after every round: q = 1/4, σ = 1.573, 8 steps a round; and q = 1, σ = 6, one step."""

_PROMISES = {
    "record": "Everything this party sends in rounds 1-10 is (8.00, 1e-05)-DP for each record of "
    "this party (zero-out adjacency; Poisson q = 0.25, sigma = 1.573, C = 1, 80 planned steps; "
    "PRV, RDP cross-check 8.74), against the other parties seeing every message. Not covered: the "
    "personal model, its outputs and metrics on this machine; n, q and the number of steps; the "
    "decision to leave and timing; patients present in several institutions.",
    "party": "Everything this party sends in rounds 1-10 is (2.13, 1e-05)-DP for the whole data "
    "set of this party (replace-one-party adjacency; the update of every round is clipped to "
    "S = 1 and noised, sensitivity 2S, sigma = 6, 10 releases without sampling; PRV, RDP "
    "cross-check 2.30), against the other parties seeing every message. Not covered: the personal "
    "model, its outputs and metrics on this machine; the decision to leave and timing.",
}


def private_report(
    party: str = "hospital-a", mode: str = "dp-frozen", rounds: int = 10, **changes: Any
) -> dict[str, Any]:
    """A run of ten planned rounds under noise, of which ``rounds`` took place; a demo's,
    with the references without privacy."""
    whole = mode == "party-update"
    unit = "party" if whole else "record"
    spent = SPENDING[unit]
    report = sample_report(party)
    noised = {} if whole else {"federated": score_row(0.744, 0.022, loss=1.1)}
    released = spent[rounds - 1] if rounds else 0.0
    return {
        **report,
        "history": [
            history_row(
                number + 1,
                train_loss=2.2 * math.exp(-0.08 * number),
                validation_accuracy=0.78 - 0.5 * math.exp(-0.3 * number),
                epsilon=spent[number],
            )
            for number in range(rounds)
        ],
        "evaluation": {
            **report["evaluation"],
            "local_only": score_row(0.924, loss=0.261),
            "partial": score_row(0.931, loss=0.24),
            "without_privacy": score_row(0.9447, loss=0.19),
            **noised,
        },
        "verdict": {"answer": "undecided", "compared": "partial", "low": -0.004, "high": 0.018},
        "privacy": {
            "mode": mode,
            "unit": unit,
            "epsilon": spent[-1],
            "epsilon_rdp": 2.2961 if whole else 8.7443,
            "delta": 1e-5,
            "noise_multiplier": 6.0 if whole else 1.573,
            "max_grad_norm": 1.0,
            "sample_rate": 1.0 if whole else 0.25,
            "steps": 10 if whole else 80,
            "accountant": "PRV",
            "sentence": _PROMISES[unit],
            "released_epsilon": released,
            "account": {
                "data_id": "chest-2024",
                "delta": 1e-5,
                "spent_epsilon": released,
                "budget_epsilon": 10.0,
                "releases": rounds,
                "runs": 1,
                "units": [unit],
            },
        },
        **changes,
    }


def fusion_part(method: str = "distill", **changes: Any) -> dict[str, Any]:
    """A fusion of two parties that took place and was better."""
    outputs = method == "distill"
    return {
        "method": method,
        "outcome": "fused",
        "kind": "outputs" if outputs else "private",
        "reference_size": 1000 if outputs else None,
        "parties": ["hospital-a", "hospital-b"],
        "payload_bytes": 40_000 if outputs else 170_792,
        "epsilon": None,
        "validation": {"local_only": 0.921, "partial": 0.943, "fused": 0.958},
        "kept": "fused",
        **changes,
    }


def fused_report(
    party: str = "hospital-a",
    method: str = "distill",
    classes: tuple[str, ...] = ("benign", "malignant"),
    **changes: Any,
) -> dict[str, Any]:
    """A run whose fusion helped, with every model measured; ``changes`` as in sample_report."""
    report = sample_report(party, classes=list(classes))
    sizes = [1050, 450] if len(classes) == 2 else [1500 // len(classes)] * len(classes)
    return {
        **report,
        "evaluation": {
            "test_size": sum(sizes),
            "local_only": full_row(0.924, sizes, loss=0.261),
            "partial": full_row(0.945, sizes, loss=0.183),
            "full": full_row(0.953, sizes, loss=0.151),
            "outputs_only": full_row(0.938, sizes, loss=0.21),
            "fused": full_row(0.957, sizes, loss=0.144),
        },
        "verdict": {"answer": "helped", "compared": "fused", "low": 0.021, "high": 0.045},
        "fusion": fusion_part(method),
        "kept": "fused",
        **changes,
    }


def unhelped_report(party: str = "hospital-b") -> dict[str, Any]:
    """A run whose fused model was no better than training alone, and was not kept."""
    report = fused_report(party, kept="local_only")
    worse = full_row(0.913, [1050, 450], loss=0.3)
    validation = {"local_only": 0.931, "partial": 0.927, "fused": 0.919}
    return {
        **report,
        "evaluation": {**report["evaluation"], "fused": worse},
        "verdict": {"answer": "did not help", "compared": "fused", "low": -0.02, "high": -0.002},
        "fusion": fusion_part(validation=validation, kept="local_only"),
    }


def budget_report(party: str = "hospital-a") -> dict[str, Any]:
    """The data set's budget, of which an earlier run took its part, ended after six rounds."""
    report = private_report(party, rounds=6)
    report["privacy"]["account"] |= {
        "spent_epsilon": 7.7102,
        "budget_epsilon": 8.0,
        "releases": 11,
        "runs": 2,
    }
    return report | {
        "outcome": "budget",
        "confirmed": False,
        "ended_because": "round 7 was not begun: the privacy budget of data set chest-2024 is "
        "epsilon = 8 at delta = 1e-05; 7.7102 is spent, and this round would make it 8.1377",
    }


def both() -> dict[str, dict[str, Any]]:
    """Two parties without privacy, one of them in trouble."""
    return {"hospital-a": sample_report(), "hospital-b": troubled_report()}


def fused_both() -> dict[str, dict[str, Any]]:
    """Two parties after fusion, which helped one of them."""
    return {"hospital-a": fused_report(), "hospital-b": unhelped_report()}


def privately() -> dict[str, dict[str, Any]]:
    """Two parties that stopped after six rounds, by the budget of one of them."""
    return {"hospital-a": budget_report(), "hospital-b": private_report("hospital-b", rounds=6)}
