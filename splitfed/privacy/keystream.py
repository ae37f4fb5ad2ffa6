"""The one source of chance that must not be reproducible: noise and sampling masks.

A keystream (AES-256 in counter mode) under a key that the operating system's entropy gives.
The key exists in this object alone: it is in no configuration, checkpoint, log or ledger, so
nobody - the party included - can compute the noise again and subtract it.

torch's CPU generator would not do: it keeps 32 bits of its seed and starts at a known value,
so a guessed seed gives back the exact clipped sum.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

_WORD = 2.0**-64
_DRAWS = 4
_BLOCK = 1 << 16
"""Gaussians that are drawn at once: bounds the memory of a large model's noise."""


class _Forks:
    """How many forks lie between the first process and this one."""

    seen = 0

    @classmethod
    def count(cls) -> None:
        cls.seen += 1


os.register_at_fork(after_in_child=_Forks.count)


class Keystream:
    """Uniform bits, Bernoulli masks and Gaussians from the operating system's entropy.

    Each object has a key of its own; a process that was forked takes a new one, so no two
    processes, parties or restarts ever draw the same.
    """

    def __init__(self) -> None:
        self._rekey()

    def words(self, count: int) -> NDArray[np.uint64]:
        """``count`` independent uniform 64-bit words."""
        if self._owner != _Forks.seen:
            self._rekey()
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype=np.uint64)

    def mask(self, rate: float, count: int) -> NDArray[np.bool_]:
        """[count] bool: each True with probability ``rate``, independently.

        The probability is exact to 2⁻⁶⁴. This is Poisson sampling, the only kind that the
        accountants here cover.
        """
        if rate >= 1.0:
            return np.ones(count, dtype=np.bool_)
        chosen: NDArray[np.bool_] = self.words(count) < np.uint64(int(rate * 2**64))
        return chosen

    def gaussian(self, count: int) -> NDArray[np.float64]:
        """``count`` independent standard normal values, float64.

        Each is half the sum of four Box-Muller draws (Holohan & Braghin 2021, section 5.1:
        an attacker who would undo the floating-point arithmetic of one draw must undo four at
        once, about 2^159 guesses). Radius and angle come from 64 bits each, so the tail is
        cut at 9.5 standard deviations, which has probability 2⁻⁶⁴ a draw.
        """
        values = np.empty(count, dtype=np.float64)
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            words = self.words(2 * _DRAWS * size).reshape(2, _DRAWS, size).astype(np.float64)
            radius = np.sqrt(-2.0 * np.log((words[0] + 0.5) * _WORD))
            values[start : start + size] = (radius * np.cos(words[1] * (2 * np.pi * _WORD))).sum(0)
        return values / 2.0

    def _rekey(self) -> None:
        self._owner = _Forks.seen
        # Counter mode never repeats under one key; the first counter needs no secrecy.
        cipher = Cipher(algorithms.AES256(os.urandom(32)), modes.CTR(bytes(16)))
        self._stream: CipherContext = cipher.encryptor()
