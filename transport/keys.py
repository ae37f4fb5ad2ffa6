"""A party's secret file, and signatures over what it offers and votes.

One file holds both secrets of a party: the CURVE25519 key that the link authenticates
with, and the Ed25519 key that signs offers and votes. Both are made together, and replaced
together (:mod:`splitfed.founding.rotation`).
"""

from __future__ import annotations

import errno
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from splitfed.errors import UserError
from splitfed.signatures import is_signing_key as is_signing_key
from splitfed.signatures import verify_signature as verify_signature

CURVE_KEY_CHARS = 40

_Z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
_Z85_VALUE = {char: value for value, char in enumerate(_Z85)}
_FIELDS = ("curve_public", "curve_secret", "signing_public", "signing_secret")
_MAX_FILE_BYTES = 4096
_REPLACE_CURE = (
    "restore the file from your own copy, or make new keys with `splitfed keys rotate --lost`"
)


@dataclass(frozen=True, kw_only=True)
class PublicKeys:
    """The public halves, as they stand in federation.toml.

    ``public_key`` is the CURVE key in Z85 (40 characters), ``signing_key`` the Ed25519
    key in lower-case hexadecimal (64 characters).
    """

    public_key: str
    signing_key: str


@dataclass(frozen=True, kw_only=True)
class PeerKeys:
    """One party of the roster: its public keys and, where it can be reached, its address.

    Raises:
        UserError: a key is not of the form given in :class:`PublicKeys`.
    """

    public_key: str
    signing_key: str
    address: str | None = None

    def __post_init__(self) -> None:
        if not is_curve_key(self.public_key):
            raise UserError(
                f"public_key = {self.public_key!r} is not a CURVE key",
                "it must be the 40 characters (Z85) that `splitfed init` printed",
            )
        if not is_signing_key(self.signing_key):
            raise UserError(
                f"signing_key = {self.signing_key!r} is not an Ed25519 key",
                "it must be the 64 hexadecimal digits that `splitfed init` printed",
            )


@dataclass(frozen=True, kw_only=True)
class Secret:
    """A loaded secret file. Its ``repr`` shows the public halves only."""

    curve_public: str
    curve_secret: str = field(repr=False)
    signing_public: str
    signing_secret: str = field(repr=False)

    @property
    def public(self) -> PublicKeys:
        """What may be shown to everyone."""
        return PublicKeys(public_key=self.curve_public, signing_key=self.signing_public)

    def sign(self, body: bytes) -> bytes:
        """Ed25519 signature (64 bytes, RFC 8032) over ``body``; the caller adds the domain."""
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(self.signing_secret)).sign(body)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who we are on the link: our name in the roster and our secret."""

    name: str
    secret: Secret


def is_curve_key(text: str) -> bool:
    """Whether ``text`` is 32 bytes in Z85 (ZeroMQ RFC 32): 40 characters, no group over 2^32-1."""
    if len(text) != CURVE_KEY_CHARS or any(char not in _Z85_VALUE for char in text):
        return False
    for start in range(0, CURVE_KEY_CHARS, 5):
        group = 0
        for char in text[start : start + 5]:
            group = group * 85 + _Z85_VALUE[char]
        if group >= 1 << 32:
            return False
    return True


def make_secret() -> Secret:
    """New keys from the operating system's random source; nothing is written."""
    public, secret = zmq.curve_keypair()
    signing = Ed25519PrivateKey.generate()
    return Secret(
        curve_public=public.decode("ascii"),
        curve_secret=secret.decode("ascii"),
        signing_public=signing.public_key().public_bytes_raw().hex(),
        signing_secret=signing.private_bytes_raw().hex(),
    )


def create_secret(path: Path) -> PublicKeys:
    """Make new keys and write them to ``path``, which must not exist yet (mode 0600).

    The file and its folder are on disk before this returns: a public key that was handed
    out must not lose its secret in a power cut.

    Raises:
        UserError: the file exists (it is never overwritten), or cannot be written.
    """
    secret = make_secret()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise UserError(
            f"{path}: there is a secret file already, and it is never overwritten",
            "keep it: the public keys in federation.toml belong to it; or choose another path",
        ) from None
    except OSError as error:
        raise UserError(
            f"{path}: the secret file cannot be written: {error.strerror}",
            "give a path in a folder that exists and is yours",
        ) from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret_bytes(secret))
        file.flush()
        os.fsync(file.fileno())
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return secret.public


def secret_bytes(secret: Secret) -> bytes:
    """What stands in the secret file."""
    fields = {name: getattr(secret, name) for name in _FIELDS}
    return json.dumps({"schema": 1, **fields}, indent=1).encode("ascii") + b"\n"


def next_secret(path: Path) -> Path:
    """Where a rotation keeps the secret that is to come until the agreement names it: beside
    the file that ``path`` leads to, links followed."""
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.next")


def load_own(path: Path, agreed: PublicKeys) -> Secret:
    """The secret that the agreement knows me by: the file at ``path``, or the next one where a
    rotation was cut off after the agreement named it.

    Raises:
        UserError: as :func:`load_secret`. That the keys are the agreed ones is the caller's to
            check.
    """
    following = next_secret(path)
    if following.exists():
        secret = load_secret(following)
        if secret.public == agreed:
            return secret
    return load_secret(path)


def load_secret(path: Path) -> Secret:
    """Read the secret file at ``path``; a link is followed, and what it leads to must be as
    private.

    Raises:
        UserError: the file is missing, others than its owner may read or write it, others may
            put a file in its place, or it does not hold a matching set of keys.
    """
    fields = _parse(path, _read_private(path))
    secret = Secret(**fields)
    if not is_curve_key(secret.curve_public) or not is_curve_key(secret.curve_secret):
        raise UserError(f"{path}: its CURVE keys are not 40 characters of Z85", _REPLACE_CURE)
    if not is_signing_key(secret.signing_public) or not is_signing_key(secret.signing_secret):
        raise UserError(f"{path}: its Ed25519 keys are not 64 hexadecimal digits", _REPLACE_CURE)
    signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret.signing_secret))
    derived_curve = zmq.curve_public(secret.curve_secret.encode("ascii")).decode("ascii")
    derived_signing = signing.public_key().public_bytes_raw().hex()
    if (derived_curve, derived_signing) != (secret.curve_public, secret.signing_public):
        raise UserError(f"{path}: its public keys do not belong to its secret ones", _REPLACE_CURE)
    return secret


def _read_private(path: Path) -> bytes:
    try:
        # Non-blocking, so that a pipe put in the file's place is refused and not waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise UserError(
                f"{path}: there is no secret file", "make one with `splitfed init`"
            ) from None
        raise UserError(
            f"{path}: the secret file cannot be read: {error.strerror}",
            "run as the user who made it",
        ) from error
    with os.fdopen(descriptor, "rb") as file:
        # The mode of the open file, not of the path: the two could differ by now.
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: the secret file is not a regular file", _REPLACE_CURE)
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise UserError(
                f"{path}: others than its owner can use this secret file (mode {mode:04o})",
                f"chmod 600 {path}; if others have read it, make new keys with "
                "`splitfed keys rotate --lost`",
            )
        _check_folders(path)
        return file.read(_MAX_FILE_BYTES + 1)


def _check_folders(path: Path) -> None:
    """Refuse a folder in which everybody may put another file in the secret's place, for the
    link and for what it leads to. The group may: it is often the owner alone."""
    for folder in {path.absolute().parent, Path(os.path.realpath(path)).parent}:
        mode = folder.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(
                f"{folder}: everybody may put another secret file in the place of {path.name} "
                f"there (mode {stat.S_IMODE(mode):04o})",
                f"chmod o-w {folder}; if you do not know who wrote there, look at every file in it",
            )


def _parse(path: Path, raw: bytes) -> dict[str, str]:
    try:
        document = json.loads(raw) if len(raw) <= _MAX_FILE_BYTES else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UserError(f"{path}: this is not a secret file of splitfed", _REPLACE_CURE)
    if document.get("schema") != 1:
        raise UserError(
            f"{path}: schema = {document.get('schema')!r}, this splitfed reads schema 1",
            "use the version of splitfed that made the file",
        )
    fields = {name: document.get(name) for name in _FIELDS}
    absent = [name for name, value in fields.items() if not isinstance(value, str)]
    if absent:
        raise UserError(f"{path}: missing or not text: {', '.join(absent)}", _REPLACE_CURE)
    return {name: str(value) for name, value in fields.items()}
