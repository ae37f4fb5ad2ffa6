"""The two-party example is followed to the letter: its own commands, in its own order."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from splitfed.config import load_party
from tests.support.commands import answer_to

EXAMPLE = Path(__file__).parents[2] / "examples" / "two_party_cnn"


def commands() -> list[str]:
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    return re.findall(r"<!-- terminal [ab] -->\n\n?    (.+)\n", text)


def test_the_readme_s_commands_make_two_parties_with_one_agreement(tmp_path):
    told = commands()
    assert len(told) == 4
    for command in told[:-1]:
        words = shlex.split(command)
        if words[0] == "splitfed":  # in this process, which saves its start
            with contextlib.chdir(tmp_path):
                answer = answer_to(*words[1:])
            assert answer.code == 0, f"{command}\n{answer.told}"
        else:
            subprocess.run(words, cwd=tmp_path, check=True, timeout=90)
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(told[-1])],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{told[-1]}\n{done.stdout}{done.stderr}"
    plan = done.stdout
    assert "conv2.weight" in plan
    assert "is (8.00, 1e-05)-DP for each record of this party" in plan
    a, b = (load_party(tmp_path / name / "party.toml") for name in ("hospital-a", "hospital-b"))
    assert a.federation.contract_digest == b.federation.contract_digest
    assert a.federation.roster_digest == b.federation.roster_digest


def test_the_annotated_files_are_what_the_commands_make():
    agreement = (EXAMPLE / "annotated" / "federation.toml").read_text(encoding="utf-8")
    for key in ("rounds", "classes", "[model]", "[preprocessing]", "[aggregation]", "[privacy]"):
        assert key in agreement
    for name in ("hospital-a", "hospital-b"):
        own = (EXAMPLE / "annotated" / f"{name}.toml").read_text(encoding="utf-8")
        assert f'party = "{name}"' in own
    assert not list(EXAMPLE.rglob("secret*"))
