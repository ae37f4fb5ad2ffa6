"""[fusion], of federation.toml and of party.toml: how the local models become better ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, StringConstraints

from splitfed.config.faults import Finding, Section, across
from splitfed.config.privacy import Count, Positive

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Method = Literal["none", "distill", "average", "ensemble"]
METHODS: tuple[str, ...] = get_args(Method)
RELEASES_PRIVATE = ("average", "ensemble")
"""Methods for which the private layers leave, once, by everybody's consent."""

TEMPERATURE = 1.0
EPOCHS = 5
WEIGHT = 1.0


class ReferenceConfig(Section):
    """The unlabelled images that every party holds, by which outputs are compared."""

    digest: Digest | None = Field(
        default=None,
        description="BLAKE3 of the preprocessed images, 64 hexadecimal digits (leave it out to "
        "have it computed from [data] reference; all sides' are compared before any training)",
    )
    size: Count | None = Field(default=None, description="how many images, a whole number >= 1")


class FusionConfig(Section):
    """How the local models become better ones after the last round."""

    method: Method = Field(default="none", description='"none", "distill", "average" or "ensemble"')
    reference: ReferenceConfig | None = Field(
        default=None,
        description='a table { digest = "...", size = 1000 } of the unlabelled images that every '
        "party names as [data] reference; { } has both filled in",
    )
    every: Count | None = Field(
        default=None,
        description="rounds between two exchanges of outputs, a whole number >= 1 (left out: "
        "once, after the last round)",
    )
    temperature: Annotated[float, Field(ge=0.1, le=100)] | None = Field(
        default=None, description=f"of the softened outputs, 0.1 to 100; {TEMPERATURE:g}"
    )

    @across("method", "reference")
    def keys_are_read(self) -> Iterator[Finding]:
        if self.method == "distill":
            if self.reference is None:
                yield Finding(
                    "reference",
                    None,
                    'missing; method = "distill" exchanges outputs on unlabelled images that every '
                    "party holds: name them as [data] reference in each party.toml, and write "
                    "reference = {} here",
                )
            return
        for key in sorted(self.model_fields_set - {"method"}):
            value = getattr(self, key)
            shown: Any = value.model_dump() if isinstance(value, Section) else value
            yield Finding(key, shown, f'contradicts method = "{self.method}"; drop it')


class OwnFusionConfig(Section):
    """How this party fuses, and its consent to what fusion may release."""

    release_private: bool = Field(
        default=False,
        description='true (let my private layers leave, once, for method = "average" or '
        '"ensemble") or false',
    )
    epochs: Annotated[int, Field(ge=1)] = Field(
        default=EPOCHS,
        description="epochs of learning from the averaged outputs, a whole number >= 1",
    )
    weight: Positive = Field(
        default=WEIGHT,
        description="weight of the averaged outputs beside the own labels, a number above 0",
    )
