"""One entry of a party's ledger as its peers see it, and what is signed about it.

The sender signs an entry when it writes it. The receiver counter-signs it once it holds the
payload durably, and keeps the entry: from then on neither side can change, remove or reorder it
without contradicting a signature in the other's folder.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Number = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]

_ENTRY_DOMAIN = b"splitfed ledger entry v1\0"
_RECEIPT_DOMAIN = b"splitfed ledger receipt v1\0"


def entry_message(
    *, run: bytes, party: str, number: int, head: bytes, root: bytes, round: int, kind: str
) -> bytes:
    """The bytes that ``party``'s Ed25519 signature over an entry of its ledger covers."""
    return _ENTRY_DOMAIN + msgspec.msgpack.encode((run, party, number, head, root, round, kind))


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One entry of a ledger, signed by the party whose ledger it is.

    Attributes:
        run: the federation run, 32 bytes.
        party: whose ledger.
        number: place in it, from 1.
        head: head of its hash chain with this entry, 32 bytes.
        root: manifest root of what was released, 32 bytes.
        round: number of the exchange.
        kind: what was released.
        signature: ``party``'s, over :meth:`message`, 64 bytes.
    """

    run: Digest
    party: Name
    number: Number
    head: Digest
    root: Digest
    round: Count
    kind: Name
    signature: Signature

    def message(self) -> bytes:
        """The bytes that :attr:`signature` covers."""
        return entry_message(
            run=self.run,
            party=self.party,
            number=self.number,
            head=self.head,
            root=self.root,
            round=self.round,
            kind=self.kind,
        )

    def receipt_message(self, receiver: str) -> bytes:
        """The bytes that the counter-signature covers by which ``receiver`` says that it holds
        the payload durably."""
        return _RECEIPT_DOMAIN + msgspec.msgpack.encode(
            (self.run, self.party, self.number, self.head, self.root, receiver)
        )

    def same_as(self, other: Entry) -> bool:
        """Whether both are one entry. Its signature may be of another key of the same party."""
        return msgspec.structs.replace(self, signature=other.signature) == other


Receipted = tuple[Entry, Signature]
"""An entry and a receiver's counter-signature of it."""
