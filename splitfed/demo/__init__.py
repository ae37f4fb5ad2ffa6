"""The whole story on one machine, with real processes, keys and digits."""

from __future__ import annotations

from splitfed.demo.story import run_demo

__all__ = ["run_demo"]
