"""What `splitfed plan` advises: nothing is wrong, and perhaps it is not meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitfed.config import PartyConfig

SHORTEST = 30.0
"""Seconds of patience below which a healthy peer may pass for absent."""


def advice(config: PartyConfig) -> list[str]:
    """One sentence each."""
    return [*_arguments(config), *_patience(config), *_nobody_to_spare(config)]


def _arguments(config: PartyConfig) -> list[str]:
    """Agreed arguments that the own model also takes and is built without: shared layers that
    compute something else in it are told by no tensor's shape."""
    import inspect

    from splitfed import lookup
    from splitfed.errors import ModelError

    own, agreed = config.model, config.federation.model.arguments
    if own is None:
        return []
    found = lookup.find(own.factory, folder=config.folder, error=ModelError, what="model factory")
    try:
        takes = inspect.signature(found).parameters if callable(found) else {}
    except (TypeError, ValueError):  # some callables written in C have none
        takes = {}
    return [
        f"the agreed model is built with {key} = {value!r}, your own without: add it to [model] "
        "arguments in party.toml if it is meant for the shared layers"
        for key, value in agreed.items()
        if key in takes and key not in own.arguments
    ]


def _patience(config: PartyConfig) -> list[str]:
    """Of three parties and more, one without patience keeps the others waiting for the absent; a
    short one takes whoever trains for absent."""
    patience = config.link.patience
    if not patience and len(config.peers) > 1:
        return [
            "[link] patience = 0 in party.toml waits for ever: you will never agree to go on "
            "without a party that is away; give it seconds, such as 3600"
        ]
    if 0 < patience < SHORTEST:
        return [
            f"[link] patience = {patience:g} s in party.toml is short: a peer tells its steps "
            f"every 10 s, so one that trains may pass for absent; give it {SHORTEST:g} s or more"
        ]
    return []


def _nobody_to_spare(config: PartyConfig) -> list[str]:
    """Of three parties and more, the others go on without one only if the rule can."""
    agreed, parties = config.federation, len(config.federation.parties)
    needed, rule = agreed.members_needed, agreed.aggregation
    if parties <= 2 or needed <= parties // 2 + 1:
        return []
    spare = "none" if needed == parties else f"at most {parties - needed}"
    why = f"rule = {rule.rule!r} needs {needed} in every round"
    if needed == agreed.minimum_parties:
        why = f"minimum_parties = {needed} is agreed"
    return [
        f"{spare} of the {parties} parties may be away: {why}; when more are, every run waits for "
        "them as [link] patience and on_absent say"
    ]
