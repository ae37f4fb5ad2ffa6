"""The last words of a run: how it ended, in ``status.json`` and ``log.jsonl``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from splitfed.errors import SplitfedError
from splitfed.run.life import Outcome
from splitfed.store import RunFolder

INTERRUPTED = 130


@contextmanager
def last_words(folder: RunFolder) -> Iterator[Callable[[Outcome], Outcome]]:
    """Says that the run starts, and at the end how it ended: by the outcome that the caller
    hands to what this yields, or by the error that comes out."""
    folder.set_status(
        {"schema": 1, "party": folder.party, "boot": folder.boot, "phase": "starting"}
    )
    ended = [(0, "", "")]

    def note(outcome: Outcome) -> Outcome:
        ended[0] = (outcome.exit_code, outcome.note, "")
        return outcome

    try:
        yield note
    except BaseException as error:
        ended[0] = _of(error)
        raise
    finally:
        code, why, cure = ended[0]
        folder.log("ended", exit_code=code, reason=why)
        folder.set_status(
            {
                **(folder.status() or {}),
                "phase": "ended" if code else "finished",
                "link": "closed",
                "ended": {"exit_code": code, "why": why, "cure": cure},
            }
        )


def _of(error: BaseException) -> tuple[int, str, str]:
    if isinstance(error, SplitfedError):
        return error.exit_code, error.message, error.cure
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED, "stopped by its operator", ""
    return 1, f"{type(error).__name__}: {error}", ""
