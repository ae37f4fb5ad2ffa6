"""Random generators that are passed in, derived from (seed, party, round, purpose).

Nothing in splitfed draws from torch's global generator, so one draw never shifts another
and a resumed round draws what the undisturbed one would have drawn. None of this is used
for privacy noise, which must not be reproducible.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import blake3
import msgspec
import torch

_DOMAIN = b"splitfed generator v1\0"


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for ``path``, such as ``(party, round, "batches")``.

    Different paths give independent seeds; the same path gives the same seed anywhere.
    """
    body = msgspec.msgpack.encode((seed, *path))
    return int.from_bytes(blake3.blake3(_DOMAIN + body).digest()[:8], "little") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """A CPU generator of its own for ``path``."""
    return torch.Generator().manual_seed(derive(seed, *path))


@contextmanager
def forked(seed: int, *path: str | int) -> Iterator[None]:
    """Run code that draws from torch's global generator (layer initialisation, dropout)
    as if it were seeded for ``path``, and put the global generator back afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(derive(seed, *path))
        yield
