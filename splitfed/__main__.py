"""``python -m splitfed`` is the command ``splitfed``."""

from __future__ import annotations

import sys

from splitfed.cli import main

if __name__ == "__main__":
    sys.exit(main())
