"""Updates of honest parties for tests of aggregation rules."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence

import torch

from splitfed.aggregation import Parameters
from splitfed.config import NEEDS
from splitfed.tensors import Tensors

PARTIES = [f"p{i}" for i in range(7)]
BASE: Tensors = {"w": torch.zeros(4, 5), "b": torch.ones(3), "n": torch.tensor([5, 6])}


def honest(
    parties: Sequence[str],
    *,
    seed: int,
    spread: float = 1.0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensors]:
    """One common step away from :data:`BASE` and, as long, a direction of each party's own."""
    gen = torch.Generator().manual_seed(seed)
    common = {key: torch.randn(t.shape, generator=gen) for key, t in BASE.items()}
    found: dict[str, Tensors] = {}
    for party in parties:
        found[party] = {}
        for key, tensor in BASE.items():
            if tensor.is_floating_point():
                own = torch.randn(tensor.shape, generator=gen)
                found[party][key] = (tensor + spread * (common[key] + own)).to(dtype)
            else:
                own = torch.randint(0, 3, tensor.shape, generator=gen)
                found[party][key] = tensor + int(spread) * own
    return found


def parameters(
    name: str,
    parties: Sequence[str],
    *,
    byzantine: int | None = None,
    clip: float = 1.0,
    root: str | None = None,
) -> Parameters:
    """What the rule must be told, standing one lying party where it is told how many."""
    need = NEEDS[name]
    return Parameters(
        weights=dict.fromkeys(parties, 1.0),
        byzantine=int(need.told) if byzantine is None else byzantine,
        clip=clip if need.reads == "clip" else None,
        root=(root or min(parties)) if need.reads == "root" else None,
    )


class OneByOne(Mapping[str, Tensors]):
    """Updates ``p0`` to ``p7``, each all of its number and made when it is asked for; of those
    handed out before, ``most`` may still be in use then."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self.made: list[weakref.ref] = []

    def __getitem__(self, party: str) -> Tensors:
        assert sum(ref() is not None for ref in self.made) <= self.most
        tensors = {"w": torch.full((10,), float(party[1:]))}
        self.made.append(weakref.ref(tensors["w"]))
        return tensors

    def __iter__(self) -> Iterator[str]:
        return iter(f"p{i}" for i in range(8))

    def __len__(self) -> int:
        return 8
