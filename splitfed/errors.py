"""Every error splitfed raises on purpose, sorted by whose mistake it is.

The class decides the exit code of the command line, so a caller can tell a
mistyped file from an absent peer without reading text:

====  =====================================================================
code  meaning
====  =====================================================================
1     a defect of splitfed itself (:class:`Defect`)
2     the user's input (:class:`UserError`)
3     a peer or the network (:class:`PeerError`)
4     a safety stop (:class:`SafetyStop`)
====  =====================================================================

Each message names the file, key or tensor, the value found and the cure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class SplitfedError(Exception):
    """Base class; ``str(error)`` is the message followed by the cure.

    Args:
        message: what is wrong, with name and value.
        cure: what the reader can do about it; shown after the message.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, cure: str = "") -> None:
        super().__init__(message, cure)
        self.message = message
        self.cure = cure

    def __str__(self) -> str:
        return f"{self.message}\n  cure: {self.cure}" if self.cure else self.message


class Defect(SplitfedError):
    """splitfed contradicts itself: a bug to report, never the user's fault."""


# --- the user's input: exit code 2 ---------------------------------------------------


class UserError(SplitfedError):
    """Something the user wrote, chose or pointed at cannot be used."""

    exit_code = 2


@dataclass(frozen=True)
class Fault:
    """One fault in a configuration: where it is, what was found, what would be right."""

    file: str
    key: str
    value: str
    cure: str

    def __str__(self) -> str:
        found = f" = {self.value}" if self.value else ""
        return f"{self.file}: {self.key}{found}: {self.cure}"


class ConfigError(UserError):
    """All faults of one or more configuration files, reported together."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class SharingError(UserError):
    """The declared split into shared and private tensors cannot be honoured."""


class ModelError(UserError):
    """A model factory cannot be found, called, or does not match the agreement."""


class DataError(UserError):
    """A data source cannot be read or does not hold what was promised."""


class PrivacyError(UserError):
    """What the agreement promises about privacy cannot be kept with this model or setting."""


class TrainingDiverged(UserError):
    """The training loss is not finite any more."""


class FolderError(UserError):
    """A run folder is missing, in use by another process, or damaged."""


class NoRunFolder(FolderError):
    """There is no run folder, or a run has only begun to make it."""


ABSENT = "(absent)"
"""The value of a field that one of two agreements lacks."""


@dataclass(frozen=True)
class Difference:
    """One field on which two agreements differ, as shown side by side."""

    key: str
    mine: str
    theirs: str


class ContractMismatch(UserError):
    """My agreement and a peer's differ; no training was started, nothing was sent."""

    def __init__(self, peer: str, differences: Iterable[Difference], cure: str = "") -> None:
        self.peer = peer
        self.differences = tuple(differences)
        told = [f"  {d.key}: mine {d.mine} | theirs {d.theirs}" for d in self.differences]
        for name, lacking in self._lacking().items():
            whose = "yours" if lacking == "mine" else f"that of {peer}"
            told = [row for row in told if not row.startswith(f"  parties.{name}.")]
            told.append(
                f"  parties.{name}: stands in one file only; {whose} lacks it, and may be older"
            )
            cure = cure or "give every party the file that the last one completed"
        super().__init__(
            f"the agreement differs from that of {peer}:\n" + "\n".join(told),
            cure or "agree on one federation.toml and give every party the same file",
        )

    def _lacking(self) -> dict[str, str]:
        """Which parties one of the two lacks altogether: name -> "mine" or "theirs"."""
        keys = [
            (d.key.removeprefix("parties.").removesuffix(".public_key"), d)
            for d in self.differences
            if d.key.startswith("parties.") and d.key.endswith(".public_key")
        ]
        mine = {name: "mine" for name, d in keys if d.mine == ABSENT}
        return mine | {name: "theirs" for name, d in keys if d.theirs == ABSENT}


# --- a peer or the network: exit code 3 ----------------------------------------------


class PeerError(SplitfedError):
    """A peer or the network between us is the cause."""

    exit_code = 3


class PeerRefusedUs(PeerError):
    """The peer answered and refused our key."""


class PeerKeyMismatch(PeerError):
    """The process at the peer's address does not hold the key the agreement pins."""


class PeerUnreachable(PeerError):
    """Nobody answers at the peer's address, or patience ended while waiting."""


class KeyInUse(PeerError):
    """Another live process already speaks with our key."""


class LinkDown(PeerError):
    """The connection broke; the link retries by itself."""


class PeerStalled(PeerError):
    """An open transfer moved no new byte for the allowed time; the link retries."""


class IntegrityError(PeerError):
    """A chunk does not match its digest; pulled again three times, then a violation."""


class ProtocolViolation(PeerError):
    """The peer sent something no honest splitfed sends; it ends that peer, not us.

    Attributes:
        evidence: the encoded offer by which it contradicts what it had signed before; empty
            where there is none.
    """

    evidence: bytes = b""


class ResourceLimit(ProtocolViolation):
    """The peer tried to make us hold more than the agreement allows."""


class StaleMessage(PeerError):
    """A message of an earlier connection or a closed round: counted and dropped."""


# --- safety stops: exit code 4 -------------------------------------------------------


class SafetyStop(SplitfedError):
    """Going on would break a promise; the model so far stays usable."""

    exit_code = 4


class OwnUpdatesExcluded(SafetyStop):
    """Peers excluded our updates more often than the agreement allows."""


class FolderDiverged(SafetyStop):
    """The run folder and what the peer remembers of it contradict each other."""


class LedgerTampered(SafetyStop):
    """The egress ledger or an outbox file was changed after it was written."""


class BudgetExceeded(SafetyStop):
    """The next release would exceed the privacy budget of the data set."""
