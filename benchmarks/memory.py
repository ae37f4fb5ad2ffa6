"""Memory of one party while it judges, compares and averages the updates of N parties.

Each update is 64 MiB. They are taken in one after the other, as mail is, and stored; then the
round's outcome is computed. Measured: the most resident memory that the kernel saw, over the level
before, for 2, 4 and 8 parties, each in a process of its own. Wanted: no more for 8 than
for 2, within a tenth. What is still on its way in is not part of it: the link holds one update of
each peer that sends at that moment.
"""

from __future__ import annotations

import os
import resource
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from measuring import (
    MIB,
    arguments,
    child_task,
    children,
    middle,
    publish,
    say,
    take_turns,
)

COUNTS = (2, 4, 8)
FLOATS = 16 << 20


def take_part(task: dict[str, Any]) -> None:
    """The child: the mail and the outcome of one round."""
    import torch

    from splitfed.progress import Silent
    from splitfed.rounds.entrance import Entrance
    from splitfed.rounds.gates import outgoing
    from splitfed.rounds.mail import Mail
    from splitfed.rounds.outcome import outcome_of
    from splitfed.rounds.place import Place
    from splitfed.rounds.terms import UPDATE, Terms
    from splitfed.store import LedgerEntry, ReleaseRow, RunFolder, release_id
    from splitfed.tensors import describe, manifest_of, pack
    from splitfed.transport.events import Arrived
    from splitfed.transport.keys import make_secret

    torch.set_num_threads(1)
    names = [f"party{number}" for number in range(task["parties"])]
    g = {"w": torch.zeros(FLOATS)}
    secrets = {name: make_secret() for name in names}
    terms = Terms(
        contract=b"c" * 32,
        parties=tuple(names),
        signing_keys={name: secret.signing_public for name, secret in secrets.items()},
        shared=describe(g),
        rounds=1,
        max_update_norm=1e9,
        weights=dict.fromkeys(names, 1.0),
        minimum_parties=len(names) // 2 + 1,
    )
    run = b"r" * 32

    class Deaf:
        """A link to nobody."""

        def __getattr__(self, name: str) -> Any:
            return lambda *args, **fields: {}

    with RunFolder.open(Path(task["folder"]), party=names[0], contract=terms.contract) as folder:
        folder.fix_run(run, {name: os.urandom(16) for name in names[1:]})
        link: Any = Deaf()
        mail = Mail(
            terms=terms, party=names[0], folder=folder, link=link, entrance=Entrance(terms),
            signer=secrets[names[0]], greet=lambda: None, progress=Silent(),
        )  # fmt: skip
        mail.open(g, ())
        before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        for number, name in enumerate(names):
            payload = pack({"w": torch.full((FLOATS,), 1.0 + number)})
            manifest = manifest_of(payload, terms.shared)
            row = ReleaseRow(
                release=release_id(run, name, 1, UPDATE), round=1, kind=UPDATE,
                tensors=terms.shared, root=manifest.root, size=manifest.total, epsilon=None,
            )  # fmt: skip
            if number == 0:
                entry = folder.release(
                    row, payload, manifest, debit=lambda: None, sign=lambda n, head: bytes(64)
                )
            else:
                entry = LedgerEntry(
                    number=1, time=0.0, row=row, previous=bytes(32), head=b"h" * 32,
                    signature=bytes(64),
                )  # fmt: skip
            out = outgoing(manifest, payload, entry, run=run, party=name, signer=secrets[name])
            if number == 0:
                mail.note_own(out)
            else:
                mail.handle(Arrived(name, out.offer, bytearray(payload)))
            del payload, out
        Place(terms=terms, g=g).compare(UPDATE, mail.book.admitted(), names[0])
        outcome, came, _ = outcome_of(mail.book, UPDATE, terms, g)
        if (outcome, float(came["w"][0])) != ("agreed", (1 + len(names)) / 2):
            raise RuntimeError(f"{len(names)} parties came to {outcome}, {came['w'][0]}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        say({"growth_bytes": peak - before})


def measure(parties: int) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="splitfed-") as folder,
        children(__file__, [{"parties": parties, "folder": folder}]) as (child,),
    ):
        return child.answer()


def main() -> None:
    options = arguments("memory of one party while it averages the updates of N").parse_args()
    turns = take_turns(options.times, {str(n): partial(measure, n) for n in COUNTS})
    found = {n: middle([turn["growth_bytes"] for turn in turns[str(n)]]) for n in COUNTS}
    growth = {n: found[n] / found[COUNTS[0]] for n in COUNTS}
    rows = [[f"{n}", f"{found[n] / MIB:.0f} MiB", f"{growth[n]:.2f}", "≤ 1.1"] for n in COUNTS]
    publish(
        "memory",
        options.out,
        ["parties", "growth of resident memory", "times that of 2", "wanted"],
        rows,
        {"turns": turns, "growth": growth, "met": all(growth[n] <= 1.1 for n in COUNTS)},
    )


if __name__ == "__main__":
    if task := child_task():
        take_part(task)
    else:
        main()
