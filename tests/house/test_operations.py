"""docs/operations.md and the systemd unit say what the code does, or these tests fail."""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from splitfed import errors
from splitfed.cli.app import app
from splitfed.cli.guard import DEFECT, INTERRUPTED
from splitfed.store import RunFolder
from tests.support.waits import Bench

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
UNIT = ROOT / "examples" / "systemd" / "splitfed@.service"
LOGGED = re.compile(r"\b(?:folder|_folder|self)\.log\(\s*\"([a-z-]+)\"")
ALONE = 5


def section(title: str) -> str:
    """The text below one heading of the guide."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", GUIDE, re.S | re.M)
    assert found, title
    return found.group(1)


def first_cells(text: str) -> set[str]:
    """All that stands between backquotes in the first column of the tables in ``text``."""
    rows = re.findall(r"^\| ([^|]*) \|", text, re.M)
    return {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}


def events_in(source: str) -> set[str]:
    return set(LOGGED.findall(source))


def test_the_log_s_events_are_those_that_the_code_writes() -> None:
    written: set[str] = set()
    for path in (ROOT / "splitfed").rglob("*.py"):
        written |= events_in(path.read_text(encoding="utf-8"))
    assert {"closed", "waiting-begins", "ended", "checkpoint-damaged"} <= written
    assert first_cells(section("The log")) == written


@pytest.mark.parametrize(
    "source", ['self._folder.log("x-y", a=1)', 'folder.log(\n    "x-y",\n', 'self.log("x-y")']
)
def test_an_event_is_seen_however_it_is_written(source: str) -> None:
    assert events_in(source) == {"x-y"}


def test_the_keys_of_status_json_are_those_that_a_run_writes(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "alice", patience=60.0)
    with bench.folder as folder:
        bench.telling.waiting("update", ["bob"], {})
        said = RunFolder.read_status(folder.path)
    assert said is not None
    told = section("What it is doing").partition("`status.json` in the run folder")[2]
    assert first_cells(told) == set(said)
    rows: dict[str, Any] = {"waiting": said["waiting"], "peers": said["peers"]["bob"]}
    for key, inner in rows.items():
        (row,) = re.findall(rf"^\| `{key}` \| (.*) \|$", told, re.M)
        assert set(re.findall(r"`(\w+)`", row)) - {"null"} == set(inner), key


def test_every_exit_code_stands_in_the_guide() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {k.exit_code for k in kinds if issubclass(k, errors.SplitfedError)}
    rows = re.findall(r"^\| (\d+) \|", section("Exit codes"), re.M)
    assert {int(row) for row in rows} == codes | {0, DEFECT, ALONE, INTERRUPTED}


def commands(group: Any = None) -> dict[str, Any]:
    """Commands of the command line, or of a group of them; none where there are none below."""
    return dict(getattr(group or typer.main.get_command(app), "commands", {}))


@pytest.mark.parametrize("file", ["docs/operations.md", "examples/systemd/README.md"])
def test_every_command_that_the_guides_name_exists_with_its_options(file: str) -> None:
    text = (ROOT / file).read_text(encoding="utf-8")
    named = re.findall(r"(?:`|bin/)splitfed ([a-z]+)((?: +[\w./=-]+)*)", text)
    assert len(named) >= 4
    for name, rest in named:
        command = commands()[name]
        for word in rest.split():
            if word in commands(command):
                command = commands(command)[word]
            elif word.startswith("--"):
                assert any(word in option.opts for option in command.params), (name, word)


# --- the systemd unit --------------------------------------------------------------------


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(UNIT.read_text(encoding="utf-8"))
    return parser


def test_the_unit_starts_again_what_time_may_mend_and_nothing_else(
    unit: configparser.ConfigParser,
) -> None:
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    held = {int(code) for code in service["RestartPreventExitStatus"].split()}
    assert held == {errors.UserError.exit_code, errors.SafetyStop.exit_code, ALONE}
    assert errors.PeerError.exit_code not in held
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert int(service["SuccessExitStatus"]) == INTERRUPTED


def test_the_unit_starts_a_command_that_exists_in_the_folder_that_it_may_write_to(
    unit: configparser.ConfigParser,
) -> None:
    service = unit["Service"]
    program, command, party = service["ExecStart"].split()
    assert Path(program).name == "splitfed"
    assert [p.name for p in commands()[command].params if p.param_type_name == "argument"] == [
        "party_file"
    ]
    assert Path(party).name == "party.toml"
    assert Path(party).parent == Path(service["ReadWritePaths"])
    assert service["WorkingDirectory"] == service["ReadWritePaths"]
    assert unit["Install"]["WantedBy"] == "multi-user.target"


def test_the_unit_gives_no_more_than_a_run_needs(unit: configparser.ConfigParser) -> None:
    from splitfed.run.descriptors import WANTED

    service = unit["Service"]
    assert service["User"] == "splitfed"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "RestrictSUIDSGID"):
        assert service[key] == "yes"
    assert service["UMask"] == "0077"
    assert int(service["LimitNOFILE"]) == WANTED
    assert {"AF_INET", "AF_INET6", "AF_UNIX"} <= set(service["RestrictAddressFamilies"].split())
