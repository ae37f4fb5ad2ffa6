"""One party's life, from its two files to its report."""

from __future__ import annotations

from splitfed.run.check import PeerCheck, check_peers
from splitfed.run.life import Outcome
from splitfed.run.party import run_party

__all__ = ["Outcome", "PeerCheck", "check_peers", "run_party"]
