"""The secret file and signatures."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import zmq
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from splitfed.errors import UserError
from splitfed.signatures import PartyKeys, by_revoked, verified_by
from splitfed.transport.keys import (
    PeerKeys,
    Secret,
    create_secret,
    is_curve_key,
    is_signing_key,
    load_own,
    load_secret,
    make_secret,
    next_secret,
    verify_signature,
)


def edit(path: Path, **fields: object) -> None:
    document = json.loads(path.read_text()) | fields
    path.write_text(json.dumps(document))


def test_a_created_secret_loads_and_has_the_public_keys_that_were_returned(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    public = create_secret(path)
    secret = load_secret(path)
    assert secret.public == public
    assert zmq.curve_public(secret.curve_secret.encode()).decode() == public.public_key


def test_a_secret_file_is_for_its_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    before = os.umask(0)
    try:
        create_secret(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_secret_file_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    before = path.read_bytes()
    with pytest.raises(UserError, match="never overwritten"):
        create_secret(path)
    assert path.read_bytes() == before


def test_a_dangling_link_is_not_followed_when_a_secret_is_made(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="never overwritten"):
        create_secret(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_secret_in_a_missing_folder_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        create_secret(tmp_path / "nowhere" / "secret.json")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_secret_file_that_others_can_use_is_refused_with_the_chmod(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    path.chmod(mode)
    with pytest.raises(UserError, match=f"chmod 600 {path}"):
        load_secret(path)


def test_a_missing_secret_file_names_the_command_that_makes_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="splitfed init"):
        load_secret(tmp_path / "secret.json")


def test_a_pipe_in_place_of_the_secret_file_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    os.mkfifo(path, 0o600)
    with pytest.raises(UserError, match="not a regular file"):
        load_secret(path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"{}" + b" " * 5000])
def test_a_file_that_is_no_secret_file_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(UserError, match=r"secret\.json"):
        load_secret(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    edit(path, signing_secret=None)
    with pytest.raises(UserError, match="signing_secret"):
        load_secret(path)


def test_a_later_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    edit(path, schema=2)
    with pytest.raises(UserError, match="schema = 2"):
        load_secret(path)


@pytest.mark.parametrize("name", ["curve_public", "signing_public"])
def test_a_public_key_of_another_secret_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    edit(path, **{name: getattr(make_secret(), name)})
    with pytest.raises(UserError, match="do not belong"):
        load_secret(path)


@pytest.mark.parametrize("name", ["curve_secret", "signing_secret", "curve_public"])
def test_a_key_of_another_form_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "secret.json"
    create_secret(path)
    edit(path, **{name: "abc"})
    with pytest.raises(UserError, match="keys are not"):
        load_secret(path)


def test_neither_repr_nor_str_of_a_secret_shows_a_secret_key() -> None:
    secret = make_secret()
    for text in (repr(secret), str(secret), f"{secret!r:s}"):
        assert secret.curve_secret not in text
        assert secret.signing_secret not in text
        assert secret.curve_public in text


def test_a_signature_holds_for_its_body_and_its_key_alone() -> None:
    secret, other = make_secret(), make_secret()
    signature = secret.sign(b"body")
    assert verify_signature(secret.signing_public, b"body", signature)
    assert not verify_signature(secret.signing_public, b"bodz", signature)
    assert not verify_signature(other.signing_public, b"body", signature)


@pytest.mark.parametrize("signature", [b"", b"\0" * 63, b"\0" * 64, b"\xff" * 64, b"\0" * 65])
def test_a_malformed_signature_is_an_invalid_one(signature: bytes) -> None:
    assert not verify_signature(make_secret().signing_public, b"body", signature)


@pytest.mark.parametrize("key", ["", "zz", "0" * 63, "G" * 64])
def test_a_malformed_signing_key_verifies_nothing(key: str) -> None:
    assert not verify_signature(key, b"body", make_secret().sign(b"body"))


def test_two_secrets_share_no_key() -> None:
    first, second = make_secret(), make_secret()
    assert len({first.curve_public, second.curve_public, first.curve_secret}) == 3
    assert first.signing_public != second.signing_public


@pytest.mark.parametrize("key", ["", "a" * 39, "a" * 41, "a" * 39 + " ", "#" * 40, "ä" * 40])
def test_what_is_not_z85_of_32_bytes_is_no_curve_key(key: str) -> None:
    assert not is_curve_key(key)
    with pytest.raises(UserError, match="public_key"):
        PeerKeys(public_key=key, signing_key="0" * 64)


@pytest.mark.parametrize("key", ["", "0" * 63, "0" * 63 + "G", "A" * 64])
def test_what_is_not_lower_case_hex_of_32_bytes_is_no_signing_key(key: str) -> None:
    assert not is_signing_key(key)
    with pytest.raises(UserError, match="signing_key"):
        PeerKeys(public_key=make_secret().curve_public, signing_key=key)


def test_a_key_under_which_everybody_can_sign_is_no_signing_key() -> None:
    """Points of small order: one signature, made without any secret, is good for every message,
    so what bears it proves nothing about its party."""
    one = b"\1" + bytes(31)
    anybodys = one + bytes(32)
    Ed25519PublicKey.from_public_bytes(one).verify(anybodys, b"whatever you like")
    assert not verify_signature(one.hex(), b"whatever you like", anybodys)
    prime = 2**255 - 19
    eighth = int.from_bytes(
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
    )
    for y in (0, 1, prime - 1, eighth, prime - eighth, prime, prime + 1):
        for sign in (0, 1):
            assert not is_signing_key((y | sign << 255).to_bytes(32, "little").hex())
    assert is_signing_key((2).to_bytes(32, "little").hex())


def test_fresh_keys_are_of_the_checked_form() -> None:
    secret = make_secret()
    assert is_curve_key(secret.curve_public)
    assert is_signing_key(secret.signing_public)


def test_a_link_to_a_secret_is_followed_and_what_it_leads_to_must_be_private(
    tmp_path: Path,
) -> None:
    (tmp_path / "vault").mkdir()
    real, link = tmp_path / "vault" / "real.json", tmp_path / "secret.json"
    public = create_secret(real)
    link.symlink_to(real)
    assert load_secret(link).public == public
    real.chmod(0o640)
    with pytest.raises(UserError, match="mode 0640"):
        load_secret(link)


@pytest.mark.parametrize("folder", ["", "vault"])
def test_a_folder_in_which_everybody_may_replace_the_secret_is_refused(
    tmp_path: Path, folder: str
) -> None:
    (tmp_path / "vault").mkdir()
    create_secret(tmp_path / "vault" / "real.json")
    (tmp_path / "secret.json").symlink_to(tmp_path / "vault" / "real.json")
    (tmp_path / folder).chmod(0o777)
    with pytest.raises(UserError, match="everybody may put another") as refused:
        load_secret(tmp_path / "secret.json")
    assert refused.value.cure.startswith(f"chmod o-w {tmp_path / folder};")


@pytest.mark.parametrize("mode", [0o755, 0o775, 0o1777])
def test_a_folder_that_others_may_read_or_only_add_to_is_none_of_our_business(
    tmp_path: Path, mode: int
) -> None:
    made = create_secret(tmp_path / "secret.json")
    tmp_path.chmod(mode)
    assert load_secret(tmp_path / "secret.json").public == made


def test_a_link_that_leads_nowhere_or_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="there is no secret file"):
        load_secret(tmp_path / "nowhere")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(UserError, match="cannot be read"):
        load_own(tmp_path / "circle", make_secret().public)


def test_the_next_secret_counts_once_the_agreement_names_it(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    old, new = create_secret(path), create_secret(next_secret(path))
    assert load_own(path, old).public == old
    assert load_own(path, new).public == new
    assert load_own(path, make_secret().public).public == old
    next_secret(path).chmod(0o644)
    with pytest.raises(UserError, match="secret.json.next"):
        load_own(path, new)


OLD, NEW, STOLEN = (make_secret() for _ in range(3))
KEYS = PartyKeys(
    present=NEW.signing_public, retired=(OLD.signing_public,), revoked=(STOLEN.signing_public,)
)


@pytest.mark.parametrize(
    ("secret", "now", "past"), [(NEW, True, True), (OLD, False, True), (STOLEN, False, False)]
)
def test_a_retired_key_counts_for_the_past_alone_and_a_revoked_one_never(
    secret: Secret, now: bool, past: bool
) -> None:
    signature = secret.sign(b"body")
    assert verified_by(KEYS, b"body", signature, past=False) == now
    assert verified_by(KEYS, b"body", signature, past=True) == past
    assert by_revoked(KEYS, b"body", signature) == (secret is STOLEN)
    assert not verified_by(KEYS, b"other", signature, past=True)
    assert not by_revoked(KEYS, b"other", signature)
