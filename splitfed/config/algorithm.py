"""`algorithm` of federation.toml: what travels and which layers train when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from splitfed.config.faults import Finding
from splitfed.config.privacy import DP_SGD

Algorithm = Literal["fedper", "fedavg", "fedrep", "fedbabu", "fedbn", "lg-fedavg"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)

DECIDING: dict[str, str] = {
    "fedavg": "shares the whole model",
    "fedbn": "shares all but the normalisation layers",
    "lg-fedavg": "shares what the model class keeps",
}
"""Algorithms that say by themselves what travels, and how."""

UNACCOUNTED: dict[str, str] = {
    "fedrep": "takes turns between private and shared layers, and no accountant here follows "
    'private layers that are trained between the noised steps; use "fedper"',
    "fedbabu": 'freezes the private layers, as "dp-frozen" does by itself: use mode = "dp-frozen" '
    'with algorithm = "fedper"',
    "fedbn": "trains normalisation layers of each party's own, which those modes would have to "
    'freeze or to noise with all others; use "fedper"',
    "lg-fedavg": "shares the late layers, on top of early ones that those modes would have to "
    'freeze at random values or to noise with all others; use "fedper"',
}
"""Why an algorithm does not go with DP-SGD."""


def algorithm_findings(
    algorithm: str, mode: str, shared: Sequence[str] | None, private: Sequence[str] | None
) -> Iterator[Finding]:
    """Contradictions between an algorithm, a privacy mode and the layers named in [model]."""
    if mode in DP_SGD and algorithm in UNACCOUNTED:
        cure = f'does not go with mode = "{mode}": {UNACCOUNTED[algorithm]}'
        yield Finding("algorithm", algorithm, cure)
    everything = shared is not None and tuple(shared) == ("*",)
    if algorithm in DECIDING:
        for key, patterns in (("shared", shared), ("private", private)):
            if patterns is not None and not (
                algorithm == "fedavg" and key == "shared" and everything
            ):
                cure = (
                    f'contradicts algorithm = "{algorithm}", which {DECIDING[algorithm]}; drop it, '
                    'or name the layers under algorithm = "fedper"'
                )
                yield Finding(f"model.{key}", list(patterns), cure)
    if algorithm in ("fedrep", "fedbabu") and everything:
        cure = (
            f'contradicts algorithm = "{algorithm}", which needs private layers; name fewer, or '
            'use algorithm = "fedavg"'
        )
        yield Finding("model.shared", list(shared or ()), cure)
