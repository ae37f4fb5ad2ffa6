"""splitfed: institutions train image models together and share only the layers they declare."""

from __future__ import annotations

__version__ = "0.1.0"
