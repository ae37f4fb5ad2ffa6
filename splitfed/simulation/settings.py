"""What ``splitfed simulate`` plays with: the demo's digits, or a party's own model and images."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from splitfed.config import PartyConfig, TrainingConfig
from splitfed.data import ImageSet, digits
from splitfed.errors import UserError
from splitfed.simulation.attacks import Attack
from splitfed.simulation.federation import Federation
from splitfed.simulation.party import Party
from splitfed.simulation.trial import Result, defended, divided, play, undisturbed

MODEL = "splitfed.models:ThreeLayerCNN"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A federation of equals before anybody lies.

    Attributes:
        about: one line: whose model, whose images.
        federation: without noise, with the acceptance test.
        parties: the last ones are those that will lie.
        test: labelled images that nobody trains on.
        reference: unlabelled images for a fusion of outputs; None: there can be none.
    """

    about: str
    federation: Federation
    parties: tuple[Party, ...]
    test: ImageSet
    reference: ImageSet | None

    def run(
        self,
        *,
        rule: str,
        attackers: int,
        attack: Attack | None,
        clip: float | None = None,
        out: Path | None = None,
    ) -> tuple[Result, Result]:
        """The honest parties without the attackers, and among them.

        Raises:
            UserError: too few parties for the rule, or outputs to lie about and no reference.
        """
        plain = self.federation
        if attack is not None and attack.outputs is not None:
            if self.reference is None:
                raise UserError(
                    f"--attack {attack.name} without reference images",
                    "give [data] reference in party.toml, or leave PARTY.TOML out",
                )
            plain = replace(plain, fusion="distill", reference=self.reference)
        guarded = defended(plain, rule, attackers=attackers, clip=clip, root=self.parties[0].name)
        after = play(
            guarded, self.parties, test=self.test, attack=attack, attackers=attackers, out=out
        )
        before = undisturbed(
            plain, self.parties, test=self.test, attack=attack, attackers=attackers
        )
        return before, after


def of_digits(*, parties: int, rounds: int, seed: int) -> Setting:
    """The demo's model and digits, divided at random.

    Raises:
        DataError: too few digits for so many parties.
    """
    dealt = digits.federation(parties, "iid", seed)
    federation = Federation(
        model=MODEL,
        arguments={"channels": 1, "classes": len(digits.CLASSES), "size": [28, 28]},
        rounds=rounds,
        classes=digits.CLASSES,
        privacy="none",
        seed=seed,
        training=TrainingConfig(lr=0.05, batch_size=32, epochs=1),
        acceptance=True,
    )
    cast = tuple(
        Party(name, own.train, own.validation, dealt.test)
        for name, own in zip(names(parties), dealt.parties, strict=True)
    )
    return Setting(
        about=f"the demo's model and digits, {len(dealt.parties[0].train)} to train on a party",
        federation=federation,
        parties=cast,
        test=dealt.test,
        reference=dealt.reference,
    )


def of_files(config: PartyConfig, *, parties: int, rounds: int, seed: int) -> Setting:
    """The model and the shared layers that ``config`` agreed on, and its own images, divided
    among the parties at random.

    Raises:
        ModelError, SharingError, DataError: as a run would; or too few images.
        UserError: a regression, or no labelled images to measure with.
    """
    from splitfed.run.agreement import agree, load_data, with_reference

    config, reference = with_reference(config)
    agreement = config.federation
    agreed, own = agree(config), load_data(config)
    test = own.test or own.validation
    if not agreed.classes:
        raise UserError(
            f"{config.path}: a regression", "simulate measures accuracy; it needs classes"
        )
    if test is None:
        raise UserError(
            f"{config.path} names neither test nor validation images", "add [data] test"
        )

    def model() -> nn.Module:
        return deepcopy(agreed.model.module)

    federation = Federation(
        model=model,
        shared=agreement.model.shared,
        private=agreement.model.private,
        rounds=rounds,
        classes=agreed.classes,
        privacy="none",
        seed=seed,
        training=config.training,
        max_update_norm=agreed.terms.max_update_norm,
        algorithm=agreement.algorithm,
        acceptance=True,
    )
    train = divided(own.train, parties, seed, "training")
    validation = [None] * parties if own.validation is None else divided(
        own.validation, parties, seed, "validation"
    )  # fmt: skip
    cast = tuple(
        Party(name, some, others, test)
        for name, some, others in zip(names(parties), train, validation, strict=True)
    )
    return Setting(
        about=f"{agreed.factory} and the images of {config.party}, {len(train[0])} to train on "
        "a party",
        federation=federation,
        parties=cast,
        test=test,
        reference=reference,
    )


def names(parties: int) -> list[str]:
    """party-01, party-02 …, in the order of names."""
    return [f"party-{number:02d}" for number in range(1, parties + 1)]
