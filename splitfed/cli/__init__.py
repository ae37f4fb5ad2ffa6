"""The command line. Importing this package imports neither torch nor typer."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from splitfed.errors import SplitfedError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors go to stderr, without a traceback
    unless ``--debug`` is among the arguments."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    from splitfed.cli.app import call

    try:
        return call(arguments)
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return INTERRUPTED
    except SplitfedError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except Exception as error:  # whatever is not ours to raise is a defect of ours
        if debug:
            raise
        print(
            f"error: {type(error).__name__}: {error}\n"
            "  cure: this is a defect of splitfed; run again with --debug and report it",
            file=sys.stderr,
        )
        return 1
