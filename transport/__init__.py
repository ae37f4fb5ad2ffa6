"""The link between parties: frames, resumable transfers, and the wires that carry them.

Imported as :mod:`splitfed.transport`; the folder stands at the root of the repository.
"""

from __future__ import annotations

if __name__ != "splitfed.transport":
    raise ImportError(f"import this package as splitfed.transport, not as {__name__}")
