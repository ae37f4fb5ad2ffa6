"""``python -m splitfed``."""

from __future__ import annotations

from splitfed.cli import main

if __name__ == "__main__":
    main()
