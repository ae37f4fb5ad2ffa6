"""What of the two files concerns a party's keys, whatever else they name is there or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from splitfed.config.faults import checked, shown
from splitfed.config.federation import FederationConfig
from splitfed.config.load import load_federation
from splitfed.config.parties import RosterEntry
from splitfed.config.party import PartyFile
from splitfed.config.toml import agreement_instead, read_toml
from splitfed.errors import ConfigError, Fault


@dataclass(frozen=True, kw_only=True)
class KeysConfig:
    """Whose keys, where the secret lies and which agreement names the public ones.

    All paths are absolute.
    """

    path: Path
    federation_path: Path
    federation: FederationConfig
    party: str
    secret_key: Path

    @property
    def me(self) -> RosterEntry:
        """My own block of the agreement."""
        return self.federation.parties[self.party]


def load_keys(path: str | Path) -> KeysConfig:
    """Reads a party.toml and its federation.toml as far as keys are concerned: neither the data
    nor the secret need be there, and I may be the only party so far.

    Raises:
        ConfigError: with every fault of both files.
    """
    path = Path(path).absolute()
    raw, faults = read_toml(path, "run `splitfed init` to make a party folder")
    if raw is None or (faults := agreement_instead(raw, str(path))):
        raise ConfigError(faults)
    own, found = checked(PartyFile, raw, str(path))
    faults += found
    federation: FederationConfig | None = None
    named = raw.get("federation")
    federation_path = path.parent / (named if isinstance(named, str) else "federation.toml")
    try:
        federation = load_federation(federation_path)
    except ConfigError as error:
        faults += error.faults
    if own is not None and federation is not None and own.party not in federation.parties:
        known = ", ".join(sorted(federation.parties))
        cure = f"not one of the [parties] of {federation_path} ({known})"
        faults.append(Fault(str(path), "party", shown(own.party), cure))
    if own is None or federation is None or faults:
        raise ConfigError(faults)
    return KeysConfig(
        path=path,
        federation_path=federation_path,
        federation=federation,
        party=own.party,
        secret_key=path.parent / own.secret_key,
    )
