"""From exceptions to exit codes: one place decides what the user sees of an error."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from typing import ParamSpec

import typer

from splitfed.cli.output import fitted, printable, terminal_width
from splitfed.errors import ConfigError, SplitfedError

DEFECT, INTERRUPTED = 1, 130
ISSUES_HINT = "this is a defect of splitfed; please report it with the text that --debug adds"

P = ParamSpec("P")


class Debug:
    """Whether tracebacks are shown; set once by ``--debug``."""

    on = False


def guarded(command: Callable[P, int | None]) -> Callable[P, None]:
    """A command whose errors go to stderr with their cure and become its exit code.

    The command returns its exit code (None is 0). Ctrl-C gives 130.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs) or 0
        except typer.Exit:
            raise
        except (KeyboardInterrupt, typer.Abort):
            complain("stopped; run the same command again to go on")
            code = INTERRUPTED
        except BrokenPipeError:
            # Whoever read our output went away; Python's own last flush must not complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = 0
        except SplitfedError as error:
            code = error.exit_code
            _explain(error)
        except Exception as error:
            code = DEFECT
            complain(f"error: {type(error).__name__}: {error}", f"  {ISSUES_HINT}")
            _trace()
        raise typer.Exit(code)

    return run


def complain(*lines: str) -> None:
    """Lines on stderr, made safe to show: some of the text may come from a peer."""
    for line in lines:
        text = fitted(printable(line, keep="\n"), terminal_width(sys.stderr))
        print(text, file=sys.stderr, flush=True)


def _explain(error: SplitfedError) -> None:
    if isinstance(error, ConfigError):
        count = len(error.faults)
        complain(f"error: {count} fault{'s' if count != 1 else ''} to mend:")
        complain(*(f"  {fault}" for fault in error.faults))
    else:
        kind = type(error).__name__
        complain(f"error ({kind}): {error.message}")
        if error.cure:
            complain(f"  cure: {error.cure}")
        if error.exit_code == DEFECT:
            complain(f"  {ISSUES_HINT}")
    _trace()


def _trace() -> None:
    if Debug.on:
        traceback.print_exc()
