"""The run folder: everything durable that one party does, and nothing but that.

``DIR/<party>/`` holds ``ledger.sqlite`` (what left, what came in, votes, views, closed rounds),
``outbox/`` and ``inbox/`` (payloads by root), ``checkpoints/`` (the last two), ``log.jsonl``,
``status.json``, and the reports. Beside party.toml lies ``budget.sqlite``, what all runs
together spent on a data set. Importing this package does not import torch.
"""

from __future__ import annotations

from splitfed.store.blobs import BlobReader, BlobStore
from splitfed.store.budget import BUDGET, Budget
from splitfed.store.checkpoints import Checkpoint
from splitfed.store.durable import Disk, write_atomic
from splitfed.store.folder import RunFolder
from splitfed.store.ledger import Ledger
from splitfed.store.rows import (
    Closed,
    Debit,
    Evidence,
    InputRow,
    LedgerEntry,
    ReleaseRow,
    ViewRow,
    VoteRow,
    Witnessed,
    release_id,
)
from splitfed.store.view import FolderView

__all__ = [
    "BUDGET",
    "BlobReader",
    "BlobStore",
    "Budget",
    "Checkpoint",
    "Closed",
    "Debit",
    "Disk",
    "Evidence",
    "FolderView",
    "InputRow",
    "Ledger",
    "LedgerEntry",
    "ReleaseRow",
    "RunFolder",
    "ViewRow",
    "VoteRow",
    "Witnessed",
    "release_id",
    "write_atomic",
]
