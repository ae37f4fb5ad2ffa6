"""Errors: to stderr, with their cure, without a traceback, and with the promised exit code."""

from __future__ import annotations

import pytest
import typer

from splitfed import errors
from splitfed.cli.guard import Debug, guarded
from splitfed.errors import ConfigError, Difference, Fault, SplitfedError
from tests.support.commands import Shell

CODES = {
    errors.Defect: 1,
    errors.SharingError: 2,
    errors.ModelError: 2,
    errors.DataError: 2,
    errors.FolderError: 2,
    errors.PeerRefusedUs: 3,
    errors.PeerKeyMismatch: 3,
    errors.PeerUnreachable: 3,
    errors.KeyInUse: 3,
    errors.ProtocolViolation: 3,
    errors.OwnUpdatesExcluded: 4,
    errors.FolderDiverged: 4,
    errors.LedgerTampered: 4,
    errors.BudgetExceeded: 4,
}


def ends(error: BaseException | None, code: int | None = None) -> int:
    """The exit code of a command that raises ``error`` or returns ``code``."""

    @guarded
    def command() -> int | None:
        if error is not None:
            raise error
        return code

    with pytest.raises(typer.Exit) as ended:
        command()
    return ended.value.exit_code


@pytest.mark.parametrize("kind", CODES, ids=lambda kind: kind.__name__)
def test_each_error_ends_with_the_code_of_its_kind(
    kind: type[SplitfedError], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(kind("what is wrong", "what to do")) == CODES[kind]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"error ({kind.__name__}): what is wrong\n  cure: what to do\n" in printed.err
    assert "Traceback" not in printed.err


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (5, 5)])
def test_a_command_ends_with_the_code_it_returns(returned: int | None, code: int) -> None:
    assert ends(None, returned) == code


def test_ctrl_c_ends_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(KeyboardInterrupt()) == 130
    assert ends(typer.Abort()) == 130
    assert "go on" in capsys.readouterr().err


def test_an_unexpected_error_is_our_defect(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(ZeroDivisionError("division by zero")) == 1
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in printed
    assert "please report" in printed
    assert "Traceback" not in printed


def test_debug_adds_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Debug, "on", True)
    assert ends(ZeroDivisionError()) == 1
    assert ends(errors.DataError("x")) == 2
    assert capsys.readouterr().err.count("Traceback") == 2


def test_all_faults_of_a_file_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    faults = [Fault("f.toml", "rounds", "0", "too few"), Fault("p.toml", "lr", "", "missing")]
    assert ends(ConfigError(faults)) == 2
    printed = capsys.readouterr().err
    assert printed == (
        "error: 2 faults to mend:\n  f.toml: rounds = 0: too few\n  p.toml: lr: missing\n"
    )


@pytest.mark.parametrize("mine", [True, False])
def test_a_party_that_one_agreement_lacks_is_named_once(
    mine: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two honest files that differ so, one is older."""
    fields = ("model", "public_key", "records", "signing_key")
    values = [(errors.ABSENT, "x") if mine else ("x", errors.ABSENT) for _ in fields]
    found = [
        Difference(f"parties.c.{key}", *pair) for key, pair in zip(fields, values, strict=True)
    ]
    found.append(Difference("parties.b.public_key", "k", "l"))
    assert ends(errors.ContractMismatch("b", found)) == 2
    printed = capsys.readouterr().err
    whose = "yours" if mine else "that of b"
    assert f"parties.c: stands in one file only; {whose} lacks it, and may be older\n" in printed
    assert "cure: give every party the file that the last one completed" in printed
    assert "parties.c." not in printed
    assert "  parties.b.public_key: mine k | theirs l\n" in printed


def test_differing_agreements_are_shown_side_by_side(capsys: pytest.CaptureFixture[str]) -> None:
    found = [Difference("rounds", "3", "5"), Difference("seed", "1", "2")]
    assert ends(errors.ContractMismatch("hospital-b", found)) == 2
    printed = capsys.readouterr().err
    assert "differs from that of hospital-b" in printed
    assert "  rounds: mine 3 | theirs 5\n" in printed
    assert "  seed: mine 1 | theirs 2\n" in printed


def test_a_peers_words_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(errors.PeerRefusedUs("no\x1b[2J\x07 entry")) == 3
    printed = capsys.readouterr().err
    assert "\x1b" not in printed
    assert "\x07" not in printed
    assert "no?[2J? entry" in printed


def test_an_unknown_command_or_flag_is_the_users_input(shell: Shell) -> None:
    for words in (["trian"], ["run"], ["run", "a", "--fast"], ["demo", "--rounds", "none"]):
        answer = shell(*words)
        assert answer.code == 2, words
        assert answer.out == ""
        assert "Traceback" not in answer.error


def test_help_and_version_are_no_errors(shell: Shell) -> None:
    assert shell("--help").code == 0
    assert shell("--version").out.startswith("splitfed 0.")
    for command in ("demo", "init", "plan", "check", "run", "status", "evaluate", "report"):
        answer = shell(command, "--help")
        assert answer.code == 0
        assert len(answer.out) > 200, f"{command} needs a help text"


def test_debug_is_understood_behind_the_command_too(shell: Shell) -> None:
    assert "Traceback" not in shell("plan", "nowhere.toml").error
    assert "Traceback" in shell("plan", "nowhere.toml", "--debug").error
    assert "Traceback" in shell("--debug", "plan", "nowhere.toml").error
    assert "Traceback" not in shell("plan", "nowhere.toml").error
