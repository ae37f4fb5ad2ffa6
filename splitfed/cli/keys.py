"""``splitfed keys``: compare public keys with the others', replace one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from splitfed.cli.guard import guarded
from splitfed.cli.output import columns, say, say_json
from splitfed.cli.shared import AsJson, PartyFile
from splitfed.cli.words import prose

if TYPE_CHECKING:
    from splitfed.config import FederationConfig

keys = typer.Typer(help="Show the parties' public keys, or replace your own.", no_args_is_help=True)

Lost = Annotated[
    bool,
    typer.Option(
        "--lost",
        help="The old secret is lost or stolen: revoke its keys. The old secret file need not be "
        "there, and nothing that it signed counts any more.",
    ),
]


def show(party_file: PartyFile, as_json: AsJson = False) -> int:
    """Print each party's public keys, those it had before, and a fingerprint of them all.

    Compare the fingerprints by telephone: that the file came by mail proves nothing.
    Exit code: 2 where your own secret file does not fit the agreement.
    """
    from splitfed.config.keys import load_keys
    from splitfed.founding.rotation import own_secret

    config = load_keys(party_file)
    if as_json:
        say_json({name: _document(config.federation, name) for name in config.federation.parties})
    else:
        for name in sorted(config.federation.parties):
            _tell_keys(config.federation, name, own=name == config.party)
    own_secret(config)
    if not as_json:
        say(f"{config.secret_key} holds the secret of {config.party}'s keys")
    return 0


def rotate(party_file: PartyFile, lost: Lost = False) -> int:
    """Make new keys, sign them with the old one, and write both into your two files.

    The old secret file is kept under another name. Nothing is sent: the others take over
    federation.toml, and both sides start `splitfed run` again. The run folders go on.
    """
    from splitfed.founding.rotation import rotate as renew

    made = renew(party_file, lost=lost)
    if made.resumed:
        say("finished a rotation that was cut off; no further keys were made", "")
    say(f"made {made.secret_file}  (secret: never copy or send it)")
    if made.kept is not None:
        say(f"kept {made.kept}  (the old secret; delete it once all have the new keys)")
    say(f"changed {made.federation_file}", "")
    _tell_keys(made.federation, made.party, own=True)
    others = ", ".join(sorted(set(made.federation.parties) - {made.party})) or "the others"
    say(
        "next:",
        f"  1. send {made.federation_file} to {others}, who put it in the place of theirs (or "
        f"take over the block [parties.{made.party}])",
        "  2. all run: splitfed keys show party.toml    and compare the fingerprints of "
        f"{made.party} by telephone",
        "  3. all run: splitfed plan party.toml    then stop `splitfed run` everywhere, and start "
        "it again once all have the file: a run that is going on keeps the old keys",
    )
    return 0


def _document(agreement: FederationConfig, party: str) -> dict[str, Any]:
    return {**agreement.parties[party].roster(), "fingerprint": agreement.fingerprint(party)}


def _tell_keys(agreement: FederationConfig, party: str, *, own: bool) -> None:
    entry = agreement.parties[party]
    rows = [
        ("public_key", entry.public_key),
        ("signing_key", entry.signing_key),
        *(
            (
                "revoked" if old.revoked else "retired",
                f"{old.signing_key}  "
                + ("nothing it signed counts" if old.revoked else "by its own statement"),
            )
            for old in entry.retired
        ),
        ("fingerprint", agreement.fingerprint(party)),
    ]
    say(f"{party}{' (you)' if own else ''}", columns(rows), "")


for command in (show, rotate):
    keys.command(help=prose(command.__doc__))(guarded(command))
