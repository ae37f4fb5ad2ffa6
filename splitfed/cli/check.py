"""``splitfed check``: talk to the peers without training or disturbing a run."""

from __future__ import annotations

from splitfed.cli.output import printable, say, say_json
from splitfed.cli.shared import AsJson, PartyFile


def check(party_file: PartyFile, as_json: AsJson = False) -> int:
    """Ask each peer: reachable? my key accepted? agreements equal? Trains nothing.

    Says which side must mend what, and gives up after 10 seconds. A run that is going on
    is not disturbed. Exit code: 0 all well, 2 the agreements differ, 3 peer or network.
    """
    from splitfed.config import load_party
    from splitfed.run import check_peers

    found = check_peers(load_party(party_file))
    if as_json:
        say_json(
            [
                {
                    "peer": one.peer,
                    "ok": one.ok,
                    "reachable": one.reachable,
                    "text": one.text,
                    "cure": one.cure,
                }
                for one in found
            ]
        )
    else:
        for one in found:
            say(f"{one.peer}: {'ok' if one.ok else 'NOT OK'}: {printable(one.text, keep=chr(10))}")
            if one.cure:
                say(f"  cure: {printable(one.cure, keep=chr(10))}")
    # 2 before 3: what the user can mend alone comes first.
    codes = sorted(one.exit_code for one in found if one.exit_code)
    return codes[0] if codes else 0
