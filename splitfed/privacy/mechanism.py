"""One federation's privacy mechanism: its public numbers, its ε and the sentence about it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal

from splitfed.config import NO_PRIVACY, NO_PRIVACY_FUSED, NO_PRIVACY_OUTPUTS, PrivacyConfig
from splitfed.errors import Defect, PrivacyError
from splitfed.privacy.accounting import (
    ACCOUNTANT,
    LARGEST_EPSILON,
    Spend,
    epsilon,
    epsilon_rdp,
    noise_for,
)

Mode = Literal["dp-frozen", "dp-all", "party-update"]
Unit = Literal["record", "patient", "party"]

HEAD_ROUNDS = 4
"""The head whose outputs are shared is fitted with as many noised steps as so many rounds have."""


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """What protects one party's releases. All of it is public and equal at every party.

    Attributes:
        mode: "dp-frozen" and "dp-all": Poisson DP-SGD (Abadi et al. 2016) on the shared
            layers, or on all; "party-update": one noised update a round.
        unit: what is protected: each record, each patient, or the whole party.
        delta: δ of the guarantee.
        noise_multiplier: σ; the noise's standard deviation over the sensitivity.
        max_grad_norm: C, the clipping norm of one unit's gradient; under "party-update" S,
            that of the whole update, whose sensitivity is then 2S.
        sample_rate: q of the Poisson sampling; 1 under "party-update".
        steps_per_round: noised steps of one round; 1 under "party-update".
        rounds: planned.
        fusion: what one release of outputs costs where they are not free: the noised fit of
            the head that makes them; None elsewhere.
        fusions: planned releases of outputs that are paid for.
        fusing: whether anything leaves for fusion, paid for or following from what was.
    """

    mode: Mode
    unit: Unit
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    steps_per_round: int
    rounds: int
    fusion: Spend | None = None
    fusions: int = 0
    fusing: bool = False

    @property
    def steps(self) -> int:
        """T, the planned steps of the whole federation."""
        return self.rounds * self.steps_per_round

    def spend(self, rounds: int) -> Spend:
        """What the releases of ``rounds`` rounds cost."""
        return Spend(
            sample_rate=self.sample_rate,
            noise_multiplier=self.noise_multiplier,
            steps=rounds * self.steps_per_round,
        )

    def spends(self, rounds: int | None = None, fusions: int | None = None) -> list[Spend]:
        """What the releases of ``rounds`` rounds and ``fusions`` fusions cost (None: all that
        are planned)."""
        found = [self.spend(self.rounds if rounds is None else rounds)]
        if self.fusion is not None:
            count = self.fusions if fusions is None else fusions
            found.append(replace(self.fusion, steps=count * self.fusion.steps))
        return found

    def epsilon(self, rounds: int | None = None, fusions: int | None = None) -> float:
        """ε of the releases of ``rounds`` rounds and ``fusions`` fusions together."""
        return epsilon(self.spends(rounds, fusions), self.delta)

    @property
    def head(self) -> Mechanism:
        """The mechanism that fits the head whose outputs are released: one round of its own.

        Raises:
            Defect: no head is fitted under this agreement.
        """
        if self.fusion is None:
            raise Defect(f"mode {self.mode} fits no head for fusion")
        return replace(
            self,
            noise_multiplier=self.fusion.noise_multiplier,
            sample_rate=self.fusion.sample_rate,
            steps_per_round=self.fusion.steps,
            rounds=1,
            fusion=None,
            fusions=0,
        )

    @property
    def sentence(self) -> str:
        """What is promised to whom, and what is not, as every command prints it."""
        costs, check = self.epsilon(), epsilon_rdp(self.spends(), self.delta)
        figures = f"({_rounded_up(costs)}, {self.delta:g})-DP"
        if self.mode == "party-update":
            return (
                f"Everything this party sends in rounds 1-{self.rounds} is {figures} for the whole "
                "data set of this party (replace-one-party adjacency; the update of every round is "
                f"clipped to S = {self.max_grad_norm:g} and noised, sensitivity 2S, sigma = "
                f"{self.noise_multiplier:g}, {self.rounds} releases without sampling; "
                f"{ACCOUNTANT}, RDP cross-check {check:.2f}), against the other parties seeing "
                "every message. Not covered: the personal model, its outputs and metrics on this "
                "machine; the agreement's public figures; the decision to leave and timing; "
                "hyperparameter tuning; earlier runs on these data unless listed."
            )
        return (
            f"Everything this party sends in rounds 1-{self.rounds}{self._and_fusion} is {figures} "
            f"for each {self.unit} of this party (zero-out adjacency; Poisson q = "
            f"{self.sample_rate:g}, sigma = {self.noise_multiplier:g}, C = "
            f"{self.max_grad_norm:g}, {self.steps} planned steps{self._head_words}; "
            f"{ACCOUNTANT}, RDP cross-check {check:.2f}), against the other parties seeing every "
            "message. Not covered: the personal model, its outputs and metrics on this machine; n, "
            "q and the number of steps; the decision to leave and timing; properties of the whole "
            "group; hyperparameter tuning; patients present in several institutions; earlier runs "
            "on these data unless listed."
        )

    @property
    def _and_fusion(self) -> str:
        return " and in the fusion" if self.fusing else ""

    @property
    def _head_words(self) -> str:
        if self.fusion is None:
            return ""
        return (
            f", and {self.fusions * self.fusion.steps} of the head whose outputs are shared with "
            f"sigma = {self.fusion.noise_multiplier:g}"
        )

    def row(self) -> dict[str, Any]:
        """The ``privacy`` part of report.json: the figures for all planned rounds."""
        return {
            "mode": self.mode,
            "unit": self.unit,
            "epsilon": self.epsilon(),
            "epsilon_rdp": epsilon_rdp(self.spends(), self.delta),
            "fusion_epsilon": None if self.fusion is None else epsilon([self.fusion], self.delta),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self.max_grad_norm,
            "sample_rate": self.sample_rate,
            "steps": self.steps,
            "accountant": ACCOUNTANT,
            "sentence": self.sentence,
        }


def mechanism_of(
    privacy: PrivacyConfig,
    *,
    rounds: int,
    records: Mapping[str, int],
    noise_multiplier: float | None = None,
    fusions: int = 1,
    fusing: bool = False,
) -> Mechanism | None:
    """The mechanism that an agreement names; None under "none".

    Given ε, the least noise that keeps it over all planned steps is found; given the noise, ε
    follows.

    Args:
        privacy: the agreement's section.
        rounds: planned.
        records: public number of units (records, or patients) of each party.
        noise_multiplier: σ of a federation that is under way and was prolonged: it stays,
            and ``privacy.epsilon`` must be enough for it.
        fusions: releases of outputs, planned and made, that ``privacy.fusion_epsilon`` pays for
            each; more than one in a federation that was prolonged after its fusion.
        fusing: whether anything leaves for fusion.

    Raises:
        PrivacyError: δ ≥ 1/n for a party, an ε that the accountant cannot give, or a
            prolonged federation that needs more than the agreed ε.
    """
    if privacy.mode == "none":
        return None
    assert privacy.delta is not None  # the section checked itself
    assert privacy.max_grad_norm is not None
    assert privacy.unit is not None
    if privacy.unit != "party":
        _delta_is_small(privacy.delta, privacy.unit, records)
    steps_per_round = privacy.steps_per_round or 1
    sample_rate = privacy.sample_rate or 1.0
    head = _head(privacy, sample_rate, steps_per_round)
    sigma = noise_multiplier or privacy.noise_multiplier
    if sigma is None:
        assert privacy.epsilon is not None  # exactly one of the two
        sigma = noise_for(
            privacy.epsilon,
            privacy.delta,
            sample_rate=sample_rate,
            steps=rounds * steps_per_round,
            beside=() if head is None else (replace(head, steps=fusions * head.steps),),
        )
    made = Mechanism(
        mode=privacy.mode,
        unit=privacy.unit,
        delta=privacy.delta,
        noise_multiplier=sigma,
        max_grad_norm=privacy.max_grad_norm,
        sample_rate=sample_rate,
        steps_per_round=steps_per_round,
        rounds=rounds,
        fusion=head,
        fusions=0 if head is None else fusions,
        fusing=fusing or head is not None,
    )
    costs = made.epsilon()
    if not costs <= LARGEST_EPSILON:
        raise PrivacyError(
            f"[privacy] noise_multiplier = {sigma:g} over {made.steps} steps gives an epsilon "
            f"above {LARGEST_EPSILON:g}",
            "raise the noise, or plan fewer rounds or steps: such a guarantee would mean nothing",
        )
    if privacy.epsilon is not None and costs > privacy.epsilon:
        raise PrivacyError(
            f"[privacy] epsilon = {privacy.epsilon:g}: {rounds} rounds with the noise that this "
            f"federation began with (sigma = {sigma:g}) cost {costs:.4f}",
            f"agree on epsilon = {math.ceil(costs * 100) / 100:g} or more on every side, or on "
            "fewer rounds, and allow it in [data] budget_epsilon; noise that was added cannot be "
            "changed",
        )
    return made


def _head(privacy: PrivacyConfig, sample_rate: float, steps_per_round: int) -> Spend | None:
    """What the noised fit of the head costs whose outputs are shared; None where none is."""
    if privacy.fusion_epsilon is None:
        return None
    assert privacy.delta is not None  # the section checked itself
    steps = HEAD_ROUNDS * steps_per_round
    sigma = noise_for(privacy.fusion_epsilon, privacy.delta, sample_rate=sample_rate, steps=steps)
    return Spend(sample_rate=sample_rate, noise_multiplier=sigma, steps=steps)


def sentence_of(mechanism: Mechanism | None, fusion: str | None = None) -> str:
    """The sentence about what is promised, whatever the mode.

    Args:
        fusion: what leaves for fusion, "outputs" or "private"; None: nothing.
    """
    if mechanism is not None:
        return mechanism.sentence
    return {None: NO_PRIVACY, "outputs": NO_PRIVACY_OUTPUTS, "private": NO_PRIVACY_FUSED}[fusion]


def _rounded_up(value: float) -> str:
    """Two decimals, never less than ``value``: a promise must not be better than it is."""
    return str(Decimal(value).quantize(Decimal("0.01"), rounding=ROUND_CEILING))


def _delta_is_small(delta: float, unit: str, records: Mapping[str, int]) -> None:
    for name, count in sorted(records.items()):
        if delta * count >= 1:
            raise PrivacyError(
                f"[privacy] delta = {delta:g} is not below 1/n for {name} with n = {count} {unit}s",
                f"choose at most {below_one_in(count):g}: with delta = 1/n, publishing one "
                f"{unit} whole would satisfy the guarantee",
            )


def below_one_in(records: int) -> float:
    """A usual δ: the largest power of ten that is at most 1/(10 n)."""
    return 10.0 ** -math.ceil(math.log10(10 * records))
