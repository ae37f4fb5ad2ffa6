"""The command line: ``splitfed …`` and ``python -m splitfed …``.

Importing this package imports neither torch nor anything else that is slow, so that
``splitfed --help`` and a mistyped file answer at once.
"""

from __future__ import annotations

from splitfed.cli.app import main

__all__ = ["main"]
