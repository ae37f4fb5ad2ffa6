"""What the round engine needs of the agreement, whichever way it was written down."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

import blake3

from splitfed.aggregation import Parameters
from splitfed.config import members_needed
from splitfed.signatures import PartyKeys, by_revoked, verified_by
from splitfed.transport.events import STATE
from splitfed.types import TensorSpec

_RUN_DOMAIN = b"splitfed run v1\0"

UPDATE = "update"
"""The kind of what leaves in a round of training; see :attr:`FusionTerms.kind` for others."""


@dataclass(frozen=True, kw_only=True)
class FusionTerms:
    """What the parties exchange to fuse their models.

    Attributes:
        method: "distill", "average" or "ensemble".
        kind: "outputs": class probabilities on the reference images; "private": the private
            layers, by consent.
        tensors: what each party releases, by its name.
        every: rounds of training between two exchanges; None: once, after the last.
    """

    method: Literal["distill", "average", "ensemble"]
    kind: Literal["outputs", "private"]
    tensors: Mapping[str, tuple[TensorSpec, ...]]
    every: int | None = None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The agreed, public constants of one federation.

    Attributes:
        contract: digest of the agreement, 32 bytes.
        parties: names of all parties, sorted.
        signing_keys: each party's Ed25519 public key, hex.
        retired_keys: the keys that it had before and handed over, of the parties that had any.
        revoked_keys: those that it lost, or that were stolen.
        shared: the tensors that travel, in the order of names; nothing else may.
        rounds: planned number of rounds R.
        max_update_norm: admitted updates satisfy ‖x − g‖ ≤ this (Euclidean, float64).
        weights: public weight of each party, for rules that weigh.
        minimum_parties: admitted updates below which a round is void.
        max_void_rounds: void rounds, counted in all, after which the federation ends.
        rule: name of the aggregation rule.
        byzantine: how many lying parties it must stand.
        clip: the radius of "centred-clipping".
        root: the root party of "fltrust".
        fusion: what is exchanged besides updates; None: nothing.
    """

    contract: bytes
    parties: tuple[str, ...]
    signing_keys: Mapping[str, str]
    shared: tuple[TensorSpec, ...]
    rounds: int
    max_update_norm: float
    weights: Mapping[str, float]
    minimum_parties: int
    max_void_rounds: int = 3
    rule: str = "mean"
    byzantine: int = 0
    clip: float | None = None
    root: str | None = None
    fusion: FusionTerms | None = None
    retired_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    revoked_keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def keys_of(self, party: str) -> PartyKeys:
        """The party's signing keys, present and past."""
        return PartyKeys(
            present=self.signing_keys[party],
            retired=self.retired_keys.get(party, ()),
            revoked=self.revoked_keys.get(party, ()),
        )

    def signed_by(
        self, party: str, message: bytes, signature: bytes, past: bool = False
    ) -> bool | None:
        """Whether the party's present key signed what it sends, or with ``past`` also one that it
        handed over: see :class:`splitfed.transport.offers.Verify`. None, with ``past`` only: a
        revoked key did."""
        if party not in self.signing_keys:
            return False
        keys = self.keys_of(party)
        if past and by_revoked(keys, message, signature):
            return None
        return verified_by(keys, message, signature, past=past)

    @property
    def parameters(self) -> Parameters:
        """What the aggregation rule is told."""
        return Parameters(
            weights=self.weights, byzantine=self.byzantine, clip=self.clip, root=self.root
        )

    @property
    def members_needed(self) -> int:
        """Members below which a view could close void rounds only."""
        return members_needed(self.rule, self.byzantine, self.minimum_parties)

    def without_the_needed(self, members: Collection[str]) -> str:
        """Why these members alone could close void rounds only; empty: they need not."""
        if self.root is not None and self.root not in members:
            return f"without {self.root}, the root party of rule {self.rule}"
        if len(members) >= self.members_needed:
            return ""
        if self.members_needed > self.minimum_parties:
            return f"rule {self.rule} needs {self.members_needed} updates"
        return f"at least {self.members_needed} are agreed"

    @property
    def fused_by(self) -> Literal["outputs", "private"] | None:
        """What leaves for fusion; None: nothing."""
        return None if self.fusion is None else self.fusion.kind

    def specs(self, kind: str, party: str) -> tuple[TensorSpec, ...]:
        """The tensors that ``party`` sends in an exchange of this kind, and no others."""
        if kind in (UPDATE, STATE) or self.fusion is None:
            return self.shared
        return self.fusion.tensors[party]

    @property
    def payload_bytes(self) -> int:
        """Bytes of the shared tensors: what each party sends to each peer per round."""
        return sum(spec.nbytes for spec in self.shared)


def run_id(contract: bytes, folders: Mapping[str, bytes]) -> bytes:
    """The name of one federation run, 32 bytes: BLAKE3(contract ‖ folder ids by name).

    It stands in everything that is signed or stored, so that a statement of one run can
    never be replayed in another.
    """
    hasher = blake3.blake3(_RUN_DOMAIN + contract)
    for party in sorted(folders):
        name = party.encode()
        hasher.update(len(name).to_bytes(2, "little") + name + folders[party])
    return hasher.digest()
