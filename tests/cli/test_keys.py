"""`splitfed keys`: comparing public keys, and replacing one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from splitfed.config.keys import load_keys
from splitfed.transport.keys import load_secret
from tests.support.commands import Shell
from tests.support.keyed import keyed_pair


def fingerprints(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith("fingerprint")]


def test_both_sides_read_the_same_keys_and_fingerprints(shell: Shell, tmp_path: Path) -> None:
    pair = keyed_pair(tmp_path)
    mine, theirs = (shell("keys", "show", party) for party in pair)
    assert (mine.code, theirs.code) == (0, 0), mine.error + theirs.error
    assert fingerprints(mine.out) == fingerprints(theirs.out)
    assert len(set(fingerprints(mine.out))) == 2
    assert "hospital-a (you)" in mine.out
    assert "hospital-b (you)" in theirs.out
    for entry in load_keys(pair[0]).federation.parties.values():
        assert entry.public_key in mine.out
        assert entry.signing_key in mine.out


def test_show_tells_a_program_the_same(shell: Shell, tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    shell("keys", "rotate", party)
    found = json.loads(shell("keys", "show", party, "--json").out)
    federation = load_keys(party).federation
    for name, document in found.items():
        assert document.pop("fingerprint") == federation.fingerprint(name)
    assert found == federation.roster()


def test_show_ends_with_2_where_the_own_secret_is_not_the_agreed_one(
    shell: Shell, tmp_path: Path
) -> None:
    party, other = keyed_pair(tmp_path)
    shutil.copyfile(other.parent / "secret.json", party.parent / "secret.json")
    answer = shell("keys", "show", party)
    assert answer.code == 2
    assert len(fingerprints(answer.out)) == 2
    assert "parties.hospital-a.public_key" in answer.error


def test_a_party_that_is_alone_so_far_and_lacks_its_images_sees_its_keys(
    shell: Shell, tmp_path: Path
) -> None:
    party, _ = keyed_pair(tmp_path)
    file = party.parent / "federation.toml"
    file.write_text(file.read_text().partition("[parties.hospital-b]")[0])
    shutil.rmtree(party.parent / "scans")
    answer = shell("keys", "show", party)
    assert answer.code == 0, answer.error
    assert shell("keys", "rotate", party).code == 0


def test_rotate_changes_both_files_and_says_what_the_others_must_do(
    shell: Shell, tmp_path: Path
) -> None:
    party, other = keyed_pair(tmp_path)
    old = load_secret(party.parent / "secret.json")
    answer = shell("keys", "rotate", party)
    assert answer.code == 0, answer.error
    new = load_secret(party.parent / "secret.json")
    assert new.curve_public in answer.out
    assert f"retired      {old.signing_public}" in answer.out
    assert f"{party.parent}/secret.json.{old.signing_public[:8]}" in answer.out
    assert "hospital-b" in answer.out
    assert "start it again" in answer.out
    for secret in (old, new):
        assert secret.curve_secret not in answer.out
        assert secret.signing_secret not in answer.out
    shutil.copyfile(party.parent / "federation.toml", other.parent / "federation.toml")
    theirs = shell("keys", "show", other)
    assert theirs.code == 0, theirs.error
    assert set(fingerprints(answer.out)) < set(fingerprints(theirs.out))


def test_a_lost_key_is_shown_as_revoked(shell: Shell, tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    old = load_secret(party.parent / "secret.json")
    (party.parent / "secret.json").unlink()
    refused = shell("keys", "rotate", party)
    assert refused.code == 2
    assert "keys rotate --lost" in refused.error
    answer = shell("keys", "rotate", "--lost", party)
    assert answer.code == 0, answer.error
    assert f"revoked      {old.signing_public}  nothing it signed counts" in answer.out


def test_a_rotation_that_was_cut_off_is_finished_and_no_newer_keys_are_made(
    shell: Shell, tmp_path: Path
) -> None:
    party, _ = keyed_pair(tmp_path)
    secret = party.parent / "secret.json"
    old = secret.read_bytes()
    shell("keys", "rotate", party)
    new, agreed = secret.read_bytes(), (party.parent / "federation.toml").read_bytes()
    # As the process left it that was killed before its last step.
    secret.replace(party.parent / "secret.json.next")
    secret.write_bytes(old)
    secret.chmod(0o600)
    assert shell("keys", "show", party).code == 0
    answer = shell("keys", "rotate", party)
    assert "finished a rotation that was cut off" in answer.out
    assert secret.read_bytes() == new
    assert (party.parent / "federation.toml").read_bytes() == agreed


def test_all_faults_of_both_files_come_before_any_key_is_made(shell: Shell, tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    party.write_text(party.read_text().replace('"hospital-a"', '"hospital-x"'))
    file = party.parent / "federation.toml"
    before = file.read_bytes()
    answer = shell("keys", "rotate", party)
    assert answer.code == 2
    assert 'party = "hospital-x": not one of the [parties]' in answer.error
    party.write_text(party.read_text() + "\n[train]\nlr = 1\n")
    file.write_text(file.read_text().replace("rounds = 3", "rounds = 0"))
    answer = shell("keys", "rotate", party)
    assert "error: 2 faults to mend:" in answer.error, answer.error
    file.write_bytes(before)
    assert not (party.parent / "secret.json.next").exists()


def test_without_a_command_keys_names_them(shell: Shell) -> None:
    answer = shell("keys")
    assert answer.code in (0, 2)
    assert "show" in answer.out + answer.error
    assert "rotate" in answer.out + answer.error
