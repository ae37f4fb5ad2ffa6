"""``python -m splitfed`` is the command ``splitfed``."""

from __future__ import annotations

from splitfed.cli import main

if __name__ == "__main__":
    main()
