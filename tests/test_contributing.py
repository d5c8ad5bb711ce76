"""What CONTRIBUTING.md says about the layout is true of the files."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
WALKS = TEXT[TEXT.index("### Three walks") : TEXT.index("## Libraries")]
PATHS = sorted(set(re.findall(r"`((?:flows|packers|scoring|extractors|tests)/[\w/]+\.py)`", TEXT)))


def walks() -> dict[str, list[str]]:
    """Title of each walk -> the files that it names, in order."""
    found = re.findall(r"\*\*(.+?)\.\*\* (.+?)(?=\n\n|\Z)", WALKS, re.S)
    return {title: re.findall(r"`([\w/]+\.py)`", text) for title, text in found}


@pytest.mark.parametrize("path", [path for path in PATHS if "NAME" not in path])
def test_a_named_file_exists(path):
    assert (ROOT / path).is_file()


def test_every_room_is_drawn():
    drawn = set(re.findall(r"(\w+)(?:/|\.py)", TEXT[TEXT.index("```text") :].split("```")[1]))
    rooms = {path.name for path in (ROOT / "flows").iterdir() if (path / "__init__.py").exists()}
    assert rooms <= drawn
    assert {"extractors", "scoring", "packers", "flows"} <= drawn


def test_there_are_three_walks():
    assert len(walks()) == 3
    assert all(len(files) >= 5 for files in walks().values())


@pytest.mark.parametrize(("title", "files"), walks().items(), ids=walks())
def test_a_walk_names_no_file_twice(title, files):
    assert len(set(files)) == len(files)
