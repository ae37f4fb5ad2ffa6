"""`splitfed keys rotate` between two runs of real parties over a real socket."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from splitfed.config import load_party
from splitfed.errors import ConfigError, PeerRefusedUs
from splitfed.founding import DIGITS, Newcomer, Proposal, found, join, sources_of
from splitfed.founding.rotation import rotate
from splitfed.progress import Silent
from splitfed.run.agreement import agree
from splitfed.run.life import Outcome
from splitfed.run.party import make_wire, own_identity, roster_of, run_party
from splitfed.transport.keys import Identity, PeerKeys, load_secret
from splitfed.transport.wire import Trouble
from splitfed.transport.zeromq import ZmqWire
from tests.support.keyed import keyed_pair
from tests.support.ports import free_port
from tests.support.wires import bench

PAIR = ("a", "b")


def test_the_engine_is_told_of_every_key_that_a_party_had(tmp_path: Path) -> None:
    party, _ = keyed_pair(tmp_path)
    olds = []
    for lost in (False, True):
        olds.append(load_secret(party.parent / "secret.json").signing_public)
        rotate(party, lost=lost)
    terms = agree(load_party(party)).terms
    keys = terms.keys_of("hospital-a")
    assert (keys.retired, keys.revoked) == ((olds[0],), (olds[1],))
    assert keys.present == load_secret(party.parent / "secret.json").signing_public
    assert terms.keys_of("hospital-b").retired == ()


def newcomer(index: int, where: Path, address: str | None) -> Newcomer:
    source = f"digits:party={index}&parties=2&split=iid&records=48"
    return Newcomer(
        party=PAIR[index], address=address, records=48, sources=sources_of(source, where)
    )


@pytest.fixture
def one_model_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads share torch's generator, which initial values are drawn with; processes do not."""
    guard = threading.Lock()

    def alone(*args, **kwargs):
        with guard:
            return agree(*args, **kwargs)

    monkeypatch.setattr("splitfed.run.party.agree", alone)


def run_both(where: Path) -> dict[str, Outcome | BaseException]:
    """`splitfed run` of both parties, in threads."""
    ended: dict[str, Outcome | BaseException] = {}

    def work(name: str) -> None:
        try:
            config = load_party(where / name / "party.toml")
            ended[name] = run_party(config, where / name / "runs", progress=Silent())
        except BaseException as error:
            ended[name] = error

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in PAIR]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), f"still running: {ended}"
    return ended


def reports(ended: dict[str, Outcome | BaseException]) -> Iterable[dict]:
    for outcome in ended.values():
        assert isinstance(outcome, Outcome), outcome
        yield outcome.report


def test_the_run_folders_go_on_after_rotate_and_the_old_key_is_not_let_in(
    tmp_path: Path, one_model_at_a_time: None
) -> None:
    proposal = Proposal(name="pair", classes=DIGITS, rounds=1, privacy="none")
    address = f"tcp://127.0.0.1:{free_port()}"
    made = found(tmp_path / "a", proposal, newcomer(0, tmp_path, address))
    agreement = join(tmp_path / "b", made.federation_file, newcomer(1, tmp_path, None))
    shutil.copyfile(agreement.federation_file, made.federation_file)
    old = load_secret(tmp_path / "b" / "secret.json")
    first = [report["contract"] for report in reports(run_both(tmp_path))]

    first_agreement = made.federation_file.read_bytes()
    changed = rotate(tmp_path / "b" / "party.toml").federation_file
    changed.write_text(changed.read_text().replace("rounds = 1", "rounds = 2"))
    shutil.copyfile(changed, made.federation_file)
    a, b = reports(run_both(tmp_path))
    assert [row["outcome"] for row in a["history"]] == ["agreed", "agreed"]
    assert a["shared_digest"] == b["shared_digest"]
    assert len({*first, a["contract"]}) == 2

    # The agreement from before, put back on the other side: there the old key would be let in.
    made.federation_file.write_bytes(first_agreement.replace(b"rounds = 1", b"rounds = 3"))
    back = load_party(tmp_path / "a" / "party.toml")
    back = replace(back, link=back.link.model_copy(update={"patience": 0.5}))
    with pytest.raises(ConfigError, match=rf"parties\.b\.signing_key.*{old.signing_public}"):
        run_party(back, tmp_path / "a" / "runs", progress=Silent())
    shutil.copyfile(changed, made.federation_file)

    here = load_party(tmp_path / "a" / "party.toml")
    there = load_party(tmp_path / "b" / "party.toml")
    listener = make_wire(here, own_identity(here))
    known = PeerKeys(public_key=old.curve_public, signing_key=old.signing_public)
    thief = ZmqWire(Identity(name="b", secret=old), {**roster_of(there), "b": known})

    def refused() -> list[Trouble]:
        return [t for t in wires.troubles(thief) if isinstance(t.error, PeerRefusedUs)]

    with bench() as wires:
        for wire in (listener, thief):
            wire.open()
            wires.events[wire] = []
        wires.run(lambda: bool(refused()))
        assert refused()[0].fatal
        assert not wires.ups(thief)
