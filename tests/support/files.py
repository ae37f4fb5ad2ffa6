"""A valid federation.toml and party.toml as text, to be spoilt one line at a time."""

from __future__ import annotations

from pathlib import Path

KEY_A = "k" * 40
KEY_B = "q" * 40
SIGNING_A = "a" * 64
SIGNING_B = "b" * 64

FEDERATION = f"""\
name = "trial"
rounds = 3
classes = ["cat", "dog"]
seed = 7

[model]
factory = "splitfed.models:ThreeLayerCNN"
arguments = {{ widths = [4, 4, 4], classes = 2 }}
shared = ["conv1", "conv2"]

[preprocessing]
channels = 1
size = [28, 28]
mean = [0.5]
std = [0.5]

[aggregation]
max_update_norm = 12

[privacy]
mode = "none"

[parties.hospital-a]
public_key = "{KEY_A}"
signing_key = "{SIGNING_A}"
address = "tcp://127.0.0.1:7001"
records = 100

[parties.hospital-b]
public_key = "{KEY_B}"
signing_key = "{SIGNING_B}"
records = 100
"""

PARTY = """\
federation = "federation.toml"
party = "hospital-a"
secret_key = "secret.json"

[data]
id = "scans"
train = "folder:scans/train"
validation = "folder:scans/validation"
test = "folder:scans/test"
"""


def write_files(
    folder: Path,
    *,
    federation: dict[str, str] | None = None,
    party: dict[str, str] | None = None,
    more: str = "",
) -> Path:
    """Writes both files and what they name, and returns party.toml's path.

    Args:
        folder: where they go.
        federation: lines of federation.toml to replace; each must be there.
        party: the same for party.toml.
        more: appended to party.toml.
    """
    for part in ("train", "validation", "test"):
        (folder / "scans" / part).mkdir(parents=True, exist_ok=True)
    (folder / "secret.json").write_text("{}")
    (folder / "federation.toml").write_text(spoilt(FEDERATION, federation))
    path = folder / "party.toml"
    path.write_text(spoilt(PARTY, party) + more)
    return path


def spoilt(text: str, lines: dict[str, str] | None) -> str:
    """``text`` with some of its lines replaced."""
    for old, new in (lines or {}).items():
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in the file"
        text = text.replace(old, new)
    return text
