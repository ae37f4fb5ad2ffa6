"""What a run came to: scores, verdict, report.json, and the bundle that predictions need."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from splitfed.evaluation import Predictions, paired_bootstrap, score
from splitfed.privacy import sentence_of
from splitfed.rounds import UPDATE, Ending, Terms
from splitfed.rounds.schedule import plan, trained
from splitfed.run.agreed import Agreed, Settings
from splitfed.run.fusing import OWN, Ensemble
from splitfed.run.learner import LocalLearner
from splitfed.run.spending import Account, released_epsilon
from splitfed.serve import calibrate, write_bundle
from splitfed.sharing import Split, private_tensors, shared_tensors, split_model
from splitfed.store import FolderView, RunFolder
from splitfed.tensors import Tensors, digest

SCHEMA = 1


def evaluate(learner: LocalLearner, agreed: Agreed) -> dict[str, Any]:
    """Score the party's models on its own test set; what was not measured is None."""
    test = learner.data.test
    found: dict[str, Predictions | None] = {
        "local_only": learner.predict(learner.baseline, test),
        "partial": learner.predict(learner.model, test),
        "federated": learner.predict(learner.federated, test),
        "fused": learner.predict(learner.fused, test),
    }
    evaluation: dict[str, Any] = {
        "test_size": None if test is None else len(test),
        **{key: None if p is None else score(p).row() for key, p in found.items()},
        "full": None,
        "outputs_only": None,
    }
    right = {key: None if p is None else p.correct for key, p in found.items()}
    # Of the two that federating made, the one that the own validation images prefer: what the
    # party would use of it. The test images decide nothing here.
    compared = learner.federated_choice()
    local, other, verdict = right["local_only"], right[compared], None
    if local is not None and other is not None:
        verdict = paired_bootstrap(local, other, agreed.seed, compared=compared).row()
    return {"evaluation": evaluation, "verdict": verdict}


def build_report(
    *,
    agreed: Agreed,
    party: str,
    split: Split,
    rows: list[dict[str, Any]],
    figures: Mapping[str, Any],
    ending: Ending,
    traffic: Any,
    rejected: list[dict[str, Any]],
    alarms: list[dict[str, Any]],
    privacy: dict[str, Any],
    times: Mapping[str, float],
    started: float,
) -> dict[str, Any]:
    """report.json as a dict. Keys keep their meaning; what was not measured is None.

    Args:
        rows: what was exchanged: rounds, which are the report's ``history``, and fusions.
    """
    terms = agreed.terms

    def total(key: str) -> float:
        return sum(row[key] or 0.0 for row in rows)

    def listed(specs: Any) -> list[dict[str, Any]]:
        return [{"name": s.name, "shape": list(s.shape), "dtype": s.dtype} for s in specs]

    return {
        "schema": SCHEMA,
        "party": party,
        "peers": [name for name in terms.parties if name != party],
        "rounds": terms.rounds,
        "contract": terms.contract.hex(),
        "classes": list(agreed.classes),
        "seed": agreed.seed,
        "algorithm": agreed.algorithm,
        "outcome": ending.outcome,
        "confirmed": ending.confirmed,
        "ended_because": ending.reason or None,
        "shared_digest": digest(ending.shared).hex(),
        "model": {
            "factory": agreed.factory,
            "shared": listed(split.shared),
            "private": listed(split.private),
            "shared_parameters": sum(spec.size for spec in split.shared),
            "private_parameters": sum(spec.size for spec in split.private),
        },
        **figures,
        "history": [row for row in rows if row.get("kind", UPDATE) == UPDATE],
        "traffic": {
            "payload_bytes_sent": traffic.payload_sent,
            "wire_bytes_sent": traffic.wire_sent,
            "payload_bytes_received": traffic.payload_received,
            "wire_bytes_received": traffic.wire_received,
        },
        "time": {
            "wall_s": time.monotonic() - started,
            "start_s": times["start_s"],
            "train_s": total("train_s") + times["fit_s"],
            "baseline_s": total("baseline_s") + times["fit_baseline_s"],
            "exchange_s": total("exchange_s"),
            "wait_s": total("wait_s"),
            "evaluate_s": total("evaluate_s") + times["evaluate_s"],
        },
        "privacy": privacy,
        "faults": {
            "reconnects": traffic.reconnects,
            "resumes": traffic.resumes,
            "void_rounds": voids_in(rows),
            "rejected": rejected,
            "alarms": alarms,
        },
    }


def voids_in(rows: Sequence[Mapping[str, Any]]) -> int:
    """Void exchanges so far, those among the missed ones included: the others counted them."""
    voids = 0
    for row in rows:
        voids = row.get("voids", voids + (row["outcome"] == "void"))
    return voids


def standing_row(terms: Terms, folder: FolderView) -> dict[str, Any]:
    """What the report's ``faults`` say of who took part: the views, by the rounds of training
    from which on they held, and who was shut out."""
    kinds = plan([row.get("kind", UPDATE) for row in folder.history()], terms)
    return {
        "views": [
            {
                "view": row.view,
                "round": trained(kinds[: row.round]),
                "members": list(row.members),
                "left_out": sorted(set(terms.parties) - set(row.members)),
            }
            for row in folder.views
        ],
        "quarantined": [
            {"peer": peer, "reason": reason} for peer, reason in sorted(folder.quarantined.items())
        ],
    }


def fusion_row(
    agreed: Agreed, learner: LocalLearner, ending: Ending, folder: RunFolder
) -> dict[str, Any]:
    """The report's ``fusion``: what was exchanged, and what decided about it."""
    fusion, released = agreed.fusion, [e.row for e in folder.ledger.rows() if e.row.kind != UPDATE]
    if fusion is None:
        nothing = dict.fromkeys(("kind", "reference_size", "payload_bytes", "epsilon", "kept"))
        return {"method": "none", "outcome": "none", **nothing, "parties": [], "validation": None}
    assert agreed.terms.fusion is not None
    outcome = "void" if released and ending.outcome == "done" else "not reached"
    if ending.received is not None:
        outcome = "fused" if learner.fused is not None else "unusable"
    paid = None if agreed.mechanism is None else agreed.mechanism.fusion
    spent = None
    if agreed.mechanism is not None and paid is not None and released:
        spent = agreed.mechanism.epsilon(0, len(released))
    return {
        "method": fusion.method,
        "outcome": outcome,
        "kind": agreed.terms.fusion.kind,
        "reference_size": fusion.reference_size,
        "parties": sorted(ending.received or ()),
        "payload_bytes": sum(row.size for row in released) * (len(agreed.terms.parties) - 1),
        "epsilon": spent,
        "validation": learner.validated(),
        "kept": learner.personal()[0],
    }


def privacy_row(agreed: Agreed, account: Account | None, folder: RunFolder) -> dict[str, Any]:
    """The report's ``privacy``: what is promised for all planned rounds, and what the releases
    so far have cost."""
    if agreed.mechanism is None:
        keys = ("unit", "epsilon", "delta", "noise_multiplier", "max_grad_norm", "sample_rate")
        nothing = dict.fromkeys((*keys, "steps", "accountant"))
        return {
            "mode": "none",
            **nothing,
            "sentence": sentence_of(None, agreed.terms.fused_by),
        }
    return {
        **agreed.mechanism.row(),
        "released_epsilon": released_epsilon(agreed.mechanism, folder.ledger.kinds()),
        "account": None if account is None else account.row(),
    }


def save_model(
    folder: RunFolder,
    agreed: Agreed,
    settings: Settings,
    learner: LocalLearner,
    split: Split,
    report: Mapping[str, Any],
) -> None:
    """The bundle that ``splitfed predict`` reads: the kept model, the others beside it, and
    how to build and use them.

    Images that were given as tensors have no preprocessing, so no bundle can be made of them:
    the tensors alone are written then.
    """
    kept, best = learner.personal()
    models, members, recipes = _members(agreed, settings, learner, split, kept)
    tensors = _tensors(_first(best), split)
    if agreed.preprocessing is None:
        folder.write_tensors("model.safetensors", tensors)
        return
    found = learner.predict(best, learner.data.validation)
    calibration = None
    if found is not None and found.probabilities is not None and found.labels is not None:
        calibration = calibrate(found.probabilities, found.labels).row()
    own = settings.recipe
    pictures = agreed.preprocessing
    fusion = agreed.fusion
    facts = {
        "party": report["party"],
        "peers": report["peers"],
        "contract": report["contract"],
        "agreement": agreed.document,
        "rounds": report["rounds"],
        "classes": report["classes"],
        "seed": report["seed"],
        "factory": agreed.factory if own is None else own.factory,
        "arguments": dict(agreed.arguments if own is None else own.arguments),
        "code": None if settings.code is None else str(settings.code),
        "members": recipes,
        "preprocessing": {
            "channels": pictures.channels,
            "size": list(pictures.size),
            "mean": list(pictures.mean),
            "std": list(pictures.std),
            "convert": list(settings.convert),
            "dtype": str(learner.data.train.images.dtype).removeprefix("torch."),
        },
        "kept": kept,
        "models": models,
        "calibration": calibration,
        "verdict": report["verdict"],
        "privacy": {key: report["privacy"][key] for key in ("mode", "sentence")},
        "reference": None
        if fusion is None or fusion.reference_size is None
        else {"digest": fusion.reference_digest, "size": fusion.reference_size},
        "model": report["model"],
    }
    write_bundle(folder, facts, tensors, members)


def _members(
    agreed: Agreed, settings: Settings, learner: LocalLearner, split: Split, kept: str
) -> tuple[dict[str, list[str]], dict[str, Tensors], dict[str, Any]]:
    """The models of a bundle by their members, the tensors of those that are not the kept
    model itself, and how they are built where it differs from the own model."""
    models: dict[str, list[str]] = {}
    members: dict[str, Tensors] = {}
    recipes: dict[str, Any] = {}
    candidates = {
        "partial": learner.model,
        "local_only": learner.baseline,
        "fused": learner.fused,
    }
    for name, model in candidates.items():
        if model is None or (name != kept and not learner.usable(model)):
            continue  # what nobody can use must not spoil what is kept
        if not isinstance(model, Ensemble):
            models[name] = ["kept" if name == kept else name]
            if name != kept:
                members[name] = _tensors(model, split)
            continue
        # The own part of an ensemble is the personal model, which is stored once.
        names = []
        for party, member in zip(model.names, model.members, strict=True):
            if party == OWN:
                names.append("kept" if kept in ("fused", "partial") else "partial")
                continue
            names.append(f"peer:{party}")
            members[f"peer:{party}"] = _tensors(member, split_model(member, agreed.model.patterns))
            assert agreed.fusion is not None
            theirs = agreed.fusion.recipes.get(party)
            factory = agreed.factory if theirs is None else theirs.factory
            arguments = dict(agreed.arguments if theirs is None else theirs.arguments)
            recipes[f"peer:{party}"] = {"factory": factory, "arguments": arguments}
        models[name] = names
        if kept == name:  # what is called kept is the personal model then
            models["partial"] = ["kept"]
            members.pop("partial", None)
    return models, members, recipes


def _first(model: nn.Module) -> nn.Module:
    """The model whose tensors stand for it: of an ensemble the own member."""
    return model.members[0] if isinstance(model, Ensemble) else model


def _tensors(model: nn.Module, split: Split) -> Tensors:
    return shared_tensors(model, split) | private_tensors(model, split)
