"""New keys for a party: nothing is overwritten, and a kill at any moment leaves a usable pair."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest

from splitfed.config import load_federation
from splitfed.config.keys import load_keys
from splitfed.errors import ConfigError, FolderError, UserError
from splitfed.founding.rotation import own_secret, rotate
from splitfed.transport.keys import load_secret, make_secret, next_secret, secret_bytes
from tests.support.crash import IMAGES, MODELLED, Crash, CrashDisk, Image
from tests.support.folders import FullDisk
from tests.support.keyed import keyed_pair

A = "hospital-a"


def secrets_in(folder: Path) -> dict[str, str]:
    """The signing key of every whole secret file of a folder, by the file's name."""
    found = {}
    for path in sorted(folder.glob("secret.json*")):
        found[path.name] = load_secret(path).signing_public
    return found


def test_a_rotation_keeps_the_old_secret_and_names_the_new_keys(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    old = load_secret(party.parent / "secret.json")
    made = rotate(party)
    config = load_keys(party)
    new = own_secret(config)
    assert new == load_secret(made.secret_file) != old
    assert made.kept is not None
    assert made.kept.name == f"secret.json.{old.signing_public[:8]}"
    assert load_secret(made.kept) == old
    assert stat.S_IMODE(made.kept.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.secret_file.stat().st_mode) == 0o600
    assert config.me.keys.retired == (old.signing_public,)
    assert config.me.retired[0].public_key == old.curve_public
    assert not next_secret(made.secret_file).exists()
    assert not list(party.parent.glob(".*"))


def test_no_secret_key_stands_in_the_agreement(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    made = rotate(party)
    text = made.federation_file.read_text()
    assert made.kept is not None
    for path in (made.secret_file, made.kept):
        secret = load_secret(path)
        assert secret.curve_secret not in text
        assert secret.signing_secret not in text


def test_the_agreement_keeps_its_comments_its_mode_and_all_other_lines(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    file = party.parent / "federation.toml"
    file.write_text(file.read_text().replace("records = 100\n", "records = 100  # by hand\n"))
    file.chmod(0o664)
    before = file.read_text().splitlines()
    rotate(party)
    after = file.read_text().splitlines()
    assert stat.S_IMODE(file.stat().st_mode) == 0o664
    gone = [line for line in before if line not in after]
    assert [line.split(" ")[0] for line in gone] == ["public_key", "signing_key"]
    added = [line for line in after if line not in before]
    assert [line.split(" ")[0].lstrip() for line in added[:3]] == [
        "public_key", "signing_key", "retired"
    ]  # fmt: skip
    assert load_federation(file).parties[A].records == 100


def test_two_rotations_make_a_chain_that_the_other_side_accepts(tmp_path: Path) -> None:
    party, other = keyed_pair(tmp_path)
    kept = [load_secret(rotate(party).kept or Path()).signing_public for _ in range(2)]
    copied = other.parent / "federation.toml"
    shutil.copyfile(party.parent / "federation.toml", copied)
    theirs = load_federation(copied)
    assert theirs.parties[A].keys.retired == tuple(kept)
    assert theirs.roster_digest == load_keys(party).federation.roster_digest
    assert len(secrets_in(party.parent)) == 3


def test_a_party_with_a_model_of_its_own_gets_the_list_above_it(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    file = party.parent / "federation.toml"
    text = file.read_text().replace("\n[parties.hospital-b]", (
        '\n[parties.hospital-a.model]\nfactory = "splitfed.models:ThreeLayerCNN"\n'
        "\n[parties.hospital-b]"
    ))  # fmt: skip
    file.write_text(text + '\n[fusion]\nmethod = "ensemble"\n')
    rotate(party)
    assert len(load_federation(file).parties[A].retired) == 1


def test_a_lost_secret_is_revoked_without_its_file(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    secret = party.parent / "secret.json"
    old = load_secret(secret).signing_public
    secret.unlink()
    with pytest.raises(UserError, match="nothing can be signed") as refused:
        rotate(party)
    assert "--lost" in refused.value.cure
    made = rotate(party, lost=True)
    assert made.kept is None
    assert load_keys(party).me.keys.revoked == (old,)
    own_secret(load_keys(party))


def test_a_stolen_secret_is_revoked_even_though_it_could_sign(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    old = load_secret(party.parent / "secret.json")
    made = rotate(party, lost=True)
    assert made.federation.parties[A].keys.revoked == (old.signing_public,)
    assert made.federation.parties[A].retired[0].statement is None
    assert made.kept is not None


def test_a_secret_that_does_not_fit_the_agreement_signs_nothing(tmp_path: Path) -> None:
    party, other = keyed_pair(tmp_path)
    before = (party.parent / "federation.toml").read_bytes()
    shutil.copyfile(other.parent / "secret.json", party.parent / "secret.json")
    with pytest.raises(ConfigError, match="name the right secret_key"):
        rotate(party)
    assert (party.parent / "federation.toml").read_bytes() == before
    assert list(secrets_in(party.parent)) == ["secret.json"]


def test_a_damaged_secret_is_never_replaced(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    secret = party.parent / "secret.json"
    secret.write_text("half")
    for lost in (False, True):
        with pytest.raises(UserError, match="not a secret file"):
            rotate(party, lost=lost)
    assert secret.read_text() == "half"


def test_another_secret_in_the_place_of_the_kept_one_is_never_overwritten(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    old = load_secret(party.parent / "secret.json")
    kept = party.parent / f"secret.json.{old.signing_public[:8]}"
    other = secret_bytes(make_secret())
    kept.write_bytes(other)
    kept.chmod(0o600)
    with pytest.raises(UserError, match="no secret is ever overwritten"):
        rotate(party)
    assert kept.read_bytes() == other
    assert own_secret(load_keys(party)) == old


def test_a_secret_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    vault = tmp_path / "vault"
    vault.mkdir()
    link = party.parent / "secret.json"
    (vault / "a.json").write_bytes(link.read_bytes())
    (vault / "a.json").chmod(0o600)
    link.unlink()
    link.symlink_to(vault / "a.json")
    rotate(party)
    assert link.is_symlink()
    assert len(list(vault.iterdir())) == 2
    own_secret(load_keys(party))


def test_an_agreement_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    link, real = party.parent / "federation.toml", tmp_path / "agreed.toml"
    link.replace(real)
    link.symlink_to(real)
    rotate(party)
    assert link.is_symlink()
    assert load_federation(real).parties[A].retired


def test_a_full_disk_leaves_the_old_pair_in_use(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    old = load_secret(party.parent / "secret.json")
    with pytest.raises(FolderError, match="no space"):
        rotate(party, disk=FullDisk(0))
    assert own_secret(load_keys(party)) == old


def points(party: Path, root: Path, *, lost: bool) -> list[str]:
    disk = CrashDisk(root)
    rotate(party, lost=lost, disk=disk)
    return disk.points


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("kind", IMAGES)
def test_a_rotation_killed_at_any_point_leaves_a_usable_pair_and_is_finished_by_the_next(
    tmp_path: Path, kind: Image, lost: bool
) -> None:
    # The crash disk models the folders of a run; the party's folder bears the name of one.
    keyed_pair(tmp_path / "made")

    def fresh(name: str) -> Path:
        where = tmp_path / name / MODELLED[0]
        shutil.copytree(tmp_path / "made" / "a", where, ignore=lambda *_: ["scans"])
        return where / "party.toml"

    old = load_secret(fresh("count").with_name("secret.json"))
    names = points(tmp_path / "count" / MODELLED[0] / "party.toml", tmp_path / "count", lost=lost)
    assert {"rename secret.json.next", "rename federation.toml", "rename secret.json"} <= set(names)
    handed_over = 0
    for stop in range(len(names)):
        party = fresh(f"at-{stop}")
        disk = CrashDisk(tmp_path / f"at-{stop}")
        disk.arm(stop, tmp_path / f"left-{stop}", kind)
        with pytest.raises(Crash):
            rotate(party, lost=lost, disk=disk)
        left = tmp_path / f"left-{stop}" / MODELLED[0] / "party.toml"
        for path in left.parent.glob("secret.json*"):
            path.chmod(0o600)  # the image is made of contents alone
        found = own_secret(load_keys(left))
        new = load_keys(left).me.retired != ()
        handed_over += new
        assert (found != old) == new, names[stop]
        unfinished = next_secret(left.with_name("secret.json")).exists()
        again = rotate(left, lost=lost)
        assert again.resumed == (new and unfinished), names[stop]
        config = load_keys(left)
        secret = own_secret(config)
        assert not next_secret(config.secret_key).exists()
        assert secret == load_secret(config.secret_key)
        kept = secrets_in(left.parent).values()
        assert old.signing_public in kept
        before = (*config.me.keys.retired, *config.me.keys.revoked)
        assert set(kept) == {*before, secret.signing_public}
        if new and not again.resumed:
            assert len(before) == 2  # nothing was left to finish: these are newer keys
        else:
            assert before == (old.signing_public,)
    assert 0 < handed_over < len(names)
