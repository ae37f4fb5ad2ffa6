"""How many files and connections this process may have open: raised at the start of a run."""

from __future__ import annotations

import contextlib
import resource

WANTED = 65_536
"""More is of no use: :mod:`splitfed.transport.watching` lets no more connections stand."""

ENOUGH = 1024
"""A run folder needs some dozens, a crowd of strangers at the door some hundred."""


def raise_descriptor_limit() -> int:
    """Raise the soft limit of RLIMIT_NOFILE to the hard one, or to :data:`WANTED` where that is
    less. Returns what the limit is now; a system that refuses leaves it as it was."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED if hard == resource.RLIM_INFINITY else min(hard, WANTED)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return WANTED if soft == resource.RLIM_INFINITY else soft


def shortage(limit: int) -> str:
    """What to tell the operator about a limit that stays low; "" if it is high enough."""
    if limit >= ENOUGH:
        return ""
    return (
        f"this process may open only {limit} files and connections; strangers at the port can use "
        f"them up: raise the hard limit to {ENOUGH} or more (`ulimit -Hn`, systemd: LimitNOFILE)"
    )
