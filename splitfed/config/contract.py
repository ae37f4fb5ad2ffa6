"""Canonical form and digest of the agreement's documents."""

from __future__ import annotations

import json
from typing import Any

import blake3


def canonical_json(document: Any) -> bytes:
    """The one JSON text of ``document``: keys sorted, no spaces, UTF-8, finite numbers only."""
    text = json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def digest_of(kind: str, document: Any) -> bytes:
    """BLAKE3, 32 bytes, of a document's canonical JSON; ``kind`` keeps kinds apart."""
    return blake3.blake3(f"splitfed {kind} v1\0".encode() + canonical_json(document)).digest()
