"""Two party folders with real keys, and what a rotation writes, made by hand."""

from __future__ import annotations

from pathlib import Path

from splitfed.signatures import rotation_message
from splitfed.transport.keys import PublicKeys, Secret, create_secret
from tests.support.files import KEY_A, KEY_B, SIGNING_A, SIGNING_B, write_files


def keyed_pair(path: Path) -> tuple[Path, Path]:
    """The party.toml of hospital-a in ``path/a`` and of hospital-b in ``path/b``, with the same
    agreement; data and model are those of :mod:`tests.support.files`."""
    made = []
    for name in ("a", "b"):
        (path / name).mkdir(parents=True)
        own = {'"hospital-a"': '"hospital-b"'} if name == "b" else None
        made.append(write_files(path / name, party=own))
        (path / name / "secret.json").unlink()
    a, b = (create_secret(party.parent / "secret.json") for party in made)
    for party in made:
        file = party.parent / "federation.toml"
        text = file.read_text()
        for old, new in (
            (KEY_A, a.public_key),
            (SIGNING_A, a.signing_key),
            (KEY_B, b.public_key),
            (SIGNING_B, b.signing_key),
        ):
            text = text.replace(old, new)
        file.write_text(text)
    return made[0], made[1]


def statement(party: str, old: Secret, new: PublicKeys) -> str:
    """The old key's signature over the new ones."""
    message = rotation_message(
        party=party,
        public_key=old.curve_public,
        signing_key=old.signing_public,
        new_public_key=new.public_key,
        new_signing_key=new.signing_key,
    )
    return old.sign(message).hex()


def retired(party: str, old: Secret, new: PublicKeys | None) -> dict[str, object]:
    """An entry of ``retired``: by a statement for ``new``, or revoked without one."""
    keys = {"public_key": old.curve_public, "signing_key": old.signing_public}
    if new is None:
        return {**keys, "revoked": True}
    return {**keys, "statement": statement(party, old, new)}
