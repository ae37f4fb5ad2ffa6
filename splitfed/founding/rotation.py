"""New keys for a party that is in a federation already, and which secret is the agreed one.

Two files change together, and a process may be killed between them. So the new secret lies
beside the old one first (``secret.json.next``), the old one is kept under a name of its own,
and the agreement is replaced in one step: from then on the next secret is the one that it
names, and moving it into place is all that is left. :func:`own_secret` finds the right one at
every moment, and another :func:`rotate` goes on where the last was cut off.
"""

from __future__ import annotations

import os
import stat
import tomllib
from dataclasses import dataclass
from pathlib import Path

from splitfed.config import FederationConfig, PartyConfig, parse
from splitfed.config.keys import KeysConfig, load_keys
from splitfed.config.writing import with_new_keys
from splitfed.errors import ConfigError, Fault, UserError
from splitfed.signatures import rotation_message
from splitfed.store.durable import TEMPORARY, Disk, storage_errors
from splitfed.transport.keys import (
    PublicKeys,
    Secret,
    load_own,
    load_secret,
    make_secret,
    next_secret,
    secret_bytes,
)


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """What a rotation did.

    Attributes:
        party: whose keys.
        secret_file: where the new secret lies.
        kept: where the old one lies; None where there was none to keep.
        federation_file: the agreement with the new keys.
        federation: as it stands there.
        resumed: whether this only put in place what an earlier call was cut off from.
    """

    party: str
    secret_file: Path
    kept: Path | None
    federation_file: Path
    federation: FederationConfig
    resumed: bool = False


def own_secret(config: PartyConfig | KeysConfig) -> Secret:
    """My secret keys, which must be those that the agreement knows me by.

    Raises:
        UserError: the secret file is missing, open to others, or damaged.
        ConfigError: the agreement holds other public keys under my name.
    """
    secret = load_own(config.secret_key, _agreed(config))
    own = {"public_key": secret.curve_public, "signing_key": secret.signing_public}
    agreed = {"public_key": config.me.public_key, "signing_key": config.me.signing_key}
    faults = [
        Fault(
            str(config.federation_path),
            f"parties.{config.party}.{key}",
            agreed[key],
            f"{config.secret_key} holds the secret of {own[key]}: name the right secret_key in "
            "party.toml, or agree on this key on both sides",
        )
        for key in own
        if own[key] != agreed[key]
    ]
    if faults:
        raise ConfigError(faults)
    return secret


def rotate(party_file: Path, *, lost: bool = False, disk: Disk | None = None) -> Rotation:
    """Replace a party's keys in its own two files.

    Args:
        party_file: its party.toml.
        lost: the old secret is lost or stolen: the old keys are revoked, not retired by a
            statement, and the old file need not be there.
        disk: replaced by tests that stop in between.

    Raises:
        ConfigError: the two files have faults, or the secret is not the agreed one.
        UserError: the old secret is missing, open to others, or damaged, and not given up by
            ``lost``; or a file is in the way.
        FolderError: the disk is full or refuses.
    """
    disk = disk or Disk()
    config = load_keys(party_file)
    place, following = Path(os.path.realpath(config.secret_key)), next_secret(config.secret_key)
    agreed = _agreed(config)
    if following.exists() and load_secret(following).public == agreed:
        return Rotation(
            party=config.party,
            secret_file=config.secret_key,
            kept=_put_in_place(disk, following, place),
            federation_file=config.federation_path,
            federation=config.federation,
            resumed=True,
        )
    old: Secret | None = None
    if lost:
        _can_be_kept(config)
    else:
        old = _signing(config)
    # What is stolen may include a secret to come; nobody was told of that one yet.
    new = _next(disk, following, afresh=lost)
    statement = None if old is None else _statement(config.party, old, new.public)
    target = Path(os.path.realpath(config.federation_path))
    with storage_errors(target):
        text, mode = target.read_bytes().decode(), stat.S_IMODE(target.stat().st_mode)
    text = with_new_keys(
        text,
        config.party,
        public_key=new.curve_public,
        signing_key=new.signing_public,
        statement=statement,
        file=str(config.federation_path),
    )
    # Read back before it is written: what the others would refuse is refused here.
    parse(FederationConfig, tomllib.loads(text), str(config.federation_path))
    if place.exists():
        _keep(disk, place)
    _replace(disk, target, text.encode(), mode)
    kept = _put_in_place(disk, following, place)
    return Rotation(
        party=config.party,
        secret_file=config.secret_key,
        kept=kept,
        federation_file=config.federation_path,
        federation=load_keys(party_file).federation,
    )


def _agreed(config: PartyConfig | KeysConfig) -> PublicKeys:
    return PublicKeys(public_key=config.me.public_key, signing_key=config.me.signing_key)


def _signing(config: KeysConfig) -> Secret:
    """The secret that can sign the statement."""
    if not os.path.lexists(config.secret_key):
        raise UserError(
            f"{config.secret_key}: there is no secret file, so nothing can be signed with it",
            "restore it from your own copy; if it is lost or was stolen, "
            f"`splitfed keys rotate --lost {config.path}`",
        )
    return own_secret(config)


def _can_be_kept(config: KeysConfig) -> None:
    """See that what lies in the place of a lost secret, if anything, can be kept."""
    if os.path.lexists(config.secret_key):
        try:
            load_secret(config.secret_key)
        except UserError as error:
            cure = "mend that or move the file to another place, then run the command again"
            raise UserError(error.message, cure) from None


def _next(disk: Disk, following: Path, *, afresh: bool) -> Secret:
    """The secret to come: made and durable, or what a call that was cut off has made."""
    if following.exists() and not afresh:
        return load_secret(following)
    secret = make_secret()
    _replace(disk, following, secret_bytes(secret))
    return secret


def _statement(party: str, old: Secret, new: PublicKeys) -> str:
    message = rotation_message(
        party=party,
        public_key=old.curve_public,
        signing_key=old.signing_public,
        new_public_key=new.public_key,
        new_signing_key=new.signing_key,
    )
    return old.sign(message).hex()


def _keep(disk: Disk, place: Path) -> Path:
    """A copy of the secret at ``place`` under the name of its own key."""
    secret = load_secret(place)
    kept = place.with_name(f"{place.name}.{secret.signing_public[:8]}")
    if not kept.exists():
        _replace(disk, kept, secret_bytes(secret))
    elif load_secret(kept) != secret:
        raise UserError(
            f"{kept}: another secret lies where {place.name} is to be kept, and no secret is "
            "ever overwritten",
            "move it to another place, then run the command again",
        )
    return kept


def _put_in_place(disk: Disk, following: Path, place: Path) -> Path | None:
    """Give the next secret the name of the old one, of which a copy is kept."""
    kept = _keep(disk, place) if place.exists() else None
    with storage_errors(place):
        disk.rename(following, place)
        disk.fsync_dir(place.parent)
    return kept


def _replace(disk: Disk, path: Path, data: bytes, mode: int = 0o600) -> None:
    """Give ``path`` this content in one durable step: whole or not at all, with this mode."""
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    with storage_errors(path):
        try:
            disk.remove(temporary)
            # Made by us and nobody else, before there is anything in it to read.
            os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            disk.write_file(temporary, (data,))
            temporary.chmod(mode)
            disk.rename(temporary, path)
        except Exception:
            temporary.unlink(missing_ok=True)
            raise
        disk.fsync_dir(path.parent)
