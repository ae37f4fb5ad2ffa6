"""The chest X-ray example is followed to the letter: on a few made-up images, in one round."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from splitfed.cli import main
from tests.support.ports import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "chest_xray"
WITHIN = 110.0
BLOCK = re.compile(r"<!-- (.+) -->\n((?:    .+\n)+)")
KNOWN = ("once", "terminal", "add to", "change in")


def blocks(*chapters: str) -> Iterator[tuple[str, list[str]]]:
    """What the README says to do, in its order: who or where, and the lines."""
    text = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    for chapter in text.split("\n## "):
        if chapter.partition("\n")[0] in chapters:
            for who, lines in BLOCK.findall(chapter):
                assert who.startswith(KNOWN), who
                yield who, [line[4:] for line in lines.splitlines()]


def made_up(path: Path) -> None:
    """Images of MedMNIST's form: noise, with a bright blob where it is pneumonia."""
    draw = np.random.default_rng(7)
    arrays = {}
    for part, normal, ill in (("train", 240, 240), ("val", 20, 20), ("test", 40, 60)):
        labels = draw.permutation(np.repeat([0, 1], [normal, ill])).astype(np.uint8)
        images = draw.integers(0, 120, (len(labels), 28, 28), dtype=np.uint8)
        images[labels == 1, 8:18, 6:20] += 130
        arrays |= {f"{part}_images": images, f"{part}_labels": labels[:, None]}
    arrays["train_images"][5] = arrays["test_images"][0]  # a repeated one
    arrays["train_labels"][5] = arrays["test_labels"][0]
    np.savez(path, **arrays)


class House:
    """Follows the README in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.said: dict[str, str] = {}
        for file in EXAMPLE.glob("*.py"):
            shutil.copy(file, folder)
        made_up(folder / "pneumoniamnist.npz")

    def follow(self, *chapters: str) -> None:
        for who, lines in blocks(*chapters):
            if who.startswith("add to"):
                self.add(who, lines)
            elif who.startswith("change in"):
                self.change(who.split()[-1], lines)
            elif "at once" in who:
                self.together(lines)
            else:
                for line in lines:
                    self.tell(line)

    def tell(self, command: str) -> None:
        """One command, to its end. splitfed's run in this process, which saves their start."""
        words = shlex.split(command.replace(":7001", f":{self.port}"))
        if "--rounds" in words:
            words[words.index("--rounds") + 1] = "1"
        if words[0] != "splitfed":
            more = ["--scale", "0.15"] if "prepare.py" in words else []
            self.finish(command, self.start([*words, *more]))
            return
        printed = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
            pytest.raises(SystemExit) as ended,
        ):
            main(words[1:])
        assert ended.value.code == 0, f"{command}\n{printed.getvalue()}"
        self.said[command] = printed.getvalue()

    def together(self, commands: list[str]) -> None:
        """Both at once, the first in a process and the second in this one, to their end."""
        first, second = commands
        process = self.start(shlex.split(first))
        try:
            self.tell(second)
            self.finish(first, process)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()

    def finish(self, command: str, process: subprocess.Popen[str]) -> None:
        out, error = process.communicate(timeout=WITHIN)
        assert process.returncode == 0, f"{command}\n{out}{error}"
        self.said[command] = out

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        if words[0] == "python":
            words = [sys.executable, *words[1:]]
        elif words[0] == "splitfed":
            words = [sys.executable, "-m", *words]
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def add(self, where: str, lines: list[str]) -> None:
        """At the end of the file, or under a section's head."""
        name, _, head = where.removeprefix("add to ").partition(" under ")
        file, new = self.folder / name, "\n".join(lines) + "\n"
        text = file.read_text(encoding="utf-8")
        if head:
            assert text.count(f"\n{head}\n") == 1
            text = text.replace(f"\n{head}\n", f"\n{head}\n{new}")
        else:
            text += f"\n{new}"
        file.write_text(text, encoding="utf-8")

    def change(self, name: str, lines: list[str]) -> None:
        """The first line in the file that gives the same key."""
        file = self.folder / name
        text = file.read_text(encoding="utf-8")
        for line in lines:
            key = line.partition(" = ")[0]
            text, found = re.subn(rf"(?m)^{key} = .*$", line, text, count=1)
            assert found, f"{name} has no {key}"
        file.write_text(text, encoding="utf-8")

    def report(self, folder: str) -> dict:
        return json.loads((self.folder / folder / "report.json").read_text(encoding="utf-8"))

    def predictions(self, folder: str) -> str:
        (command,) = (c for c in self.said if c.startswith(f"splitfed predict {folder} "))
        return self.said[command]


RUNS = {
    "Without privacy": ("hospital-a/runs/hospital-a", "hospital-b/runs/hospital-b"),
    "With privacy": ("private-a/runs/hospital-a", "private-b/runs/hospital-b"),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    made = House(tmp_path_factory.mktemp("chest_xray"))
    made.follow("The images")
    return made


@pytest.mark.timeout(240)  # both: 30 s of processor time
@pytest.mark.parametrize("chapter", list(RUNS))
def test_each_chapter_ends_with_the_prediction_of_a_new_patient(house: House, chapter: str) -> None:
    house.follow(chapter)
    private = chapter == "With privacy"
    for folder in RUNS[chapter]:
        report = house.report(folder)
        assert report["fusion"]["outcome"] == "fused"
        assert report["verdict"]["compared"] in ("fused", "partial")
        assert report["evaluation"]["local_only"] is not None
        assert (report["evaluation"]["federated"] is not None) == private
        assert report["privacy"]["mode"] == ("dp-frozen" if private else "none")
        assert (report["privacy"]["epsilon"] or 0) <= 8
        told = house.predictions(folder).splitlines()
        assert told[0].split() == ["image", "class", "probability"]
        for number, line in enumerate(told[1:5], 1):
            assert line.startswith(f"data/new-patient-{number}.png")
            assert re.search(r"  (normal|pneumonia) +[01]\.\d{3}", line)
        assert told[-1].startswith("answered by ")
    a, b = (house.report(folder) for folder in RUNS[chapter])
    assert a["shared_digest"] == b["shared_digest"]
    assert a["model"]["private"] != b["model"]["private"]
    folders = " ".join(RUNS[chapter])
    house.tell(f"python compare.py {folders}")
    table = house.said[f"python compare.py {folders}"].splitlines()
    assert [row.split(" | ")[0] for row in table[2:]] == ["| hospital-a", "| hospital-b"]


def test_no_image_stands_in_two_sets(house: House) -> None:
    data = house.folder / "data"
    seen: dict[bytes, str] = {}
    for name in ("hospital-a", "hospital-b", "reference"):
        with np.load(data / f"{name}.npz") as arrays:
            for key in (key for key in arrays.files if key.endswith("_images")):
                owner = "test" if key == "test_images" else f"{name} {key}"
                for image in arrays[key]:
                    assert seen.setdefault(image.tobytes(), owner) == owner
    a, b = (np.load(data / f"hospital-{x}.npz")["train_labels"] for x in "ab")
    assert (len(a), a.mean(), len(b), b.mean()) == (120, 0.6, 120, 0.3)
    assert len(list(data.glob("new-patient-*.png"))) == 4
    assert list(np.load(data / "reference.npz").files) == ["train_images"]


def test_too_small_a_collection_is_refused_in_words(tmp_path: Path) -> None:
    images = np.zeros((3, 28, 28), np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None]
    labels = np.array([0, 1, 1], np.uint8)
    arrays = {f"{p}_images": images + i for i, p in enumerate(("train", "val", "test"))}
    arrays |= {f"{part}_labels": labels for part in ("train", "val", "test")}
    np.savez(tmp_path / "small.npz", **arrays)
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / "prepare.py"), "small.npz"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "too few" in done.stderr
