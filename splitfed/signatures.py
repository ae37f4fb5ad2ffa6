"""Ed25519 signatures, and which of a party's keys a statement may bear.

A party's signing key can be replaced. What the old key signed before stays provable, unless
the key was lost or stolen: then nothing that bears it proves anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNING_KEY_CHARS = 64
SIGNATURE_BYTES = 64

_ROTATION_DOMAIN = b"splitfed key rotation v1\0"

_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_SMALL_ORDER = frozenset((0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8))
"""y of the points P with 8·P = 0 (RFC 8032's curve). Under such a key a signature without any
secret is good for every message."""


@dataclass(frozen=True, kw_only=True)
class PartyKeys:
    """The Ed25519 public keys of one party, lower-case hexadecimal.

    Attributes:
        present: what signs now.
        retired: what signed before and handed over in good order.
        revoked: what was lost or stolen.
    """

    present: str
    retired: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()


def is_signing_key(text: str) -> bool:
    """Whether ``text`` is 32 bytes in lower-case hexadecimal, and no key under which everybody
    can sign: what bears it would prove nothing about its party."""
    if len(text) != SIGNING_KEY_CHARS or not all(char in "0123456789abcdef" for char in text):
        return False
    y = int.from_bytes(bytes.fromhex(text), "little") & (2**255 - 1)
    return y % _PRIME not in _SMALL_ORDER


def verify_signature(signing_key: str, body: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``body`` was made by the holder of ``signing_key`` (hex).

    A malformed signature or key is an invalid one, never an exception: both can come
    from a peer.
    """
    if not is_signing_key(signing_key) or len(signature) != SIGNATURE_BYTES:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(signing_key)).verify(signature, body)
    except (InvalidSignature, ValueError):
        return False
    return True


def verified_by(keys: PartyKeys, message: bytes, signature: bytes, *, past: bool) -> bool:
    """Whether the party of ``keys`` signed ``message``.

    Args:
        past: False for what is made now, which the present key alone may sign; True for what
            was signed and stored earlier, for which a retired key counts too. A revoked key
            counts for neither.
    """
    return any(verify_signature(key, message, signature) for key in _counting(keys, past))


def by_revoked(keys: PartyKeys, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is good, but of a revoked key: it proves nothing about anybody, so
    it is neither believed nor held against the one who shows it."""
    return any(verify_signature(key, message, signature) for key in keys.revoked)


def rotation_message(
    *, party: str, public_key: str, signing_key: str, new_public_key: str, new_signing_key: str
) -> bytes:
    """The bytes that a retired key signs to hand over to the next: whose keys they are, the
    old pair and the new pair, each CURVE in Z85 and Ed25519 in hexadecimal."""
    return _ROTATION_DOMAIN + msgspec.msgpack.encode(
        (party, public_key, signing_key, new_public_key, new_signing_key)
    )


def _counting(keys: PartyKeys, past: bool) -> Iterator[str]:
    yield keys.present
    if past:
        yield from reversed(keys.retired)
