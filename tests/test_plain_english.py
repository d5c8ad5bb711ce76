"""Docs, docstrings, comments and messages say things in plain English; locals are named for what they hold."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(
    path for package in ("extractors", "scoring", "packers", "flows") for path in (ROOT / package).rglob("*.py")
)
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "packers" / "FORMAT.md",
    *sorted((ROOT / "docs").glob("*.md")),
]

DIALECT = {
    r"\banew\b": "again",
    r"\blies? (in|at|beside|under|below|there|where)\b": "is in, is stored in",
    r"\blie (in|at|beside|under|below|there|where)\b": "are in, are stored in",
    r"(?<![Tt]here )\b(is|are) no (?!longer|more|less|fewer|larger|longer)[a-z]": "is not a, lacks, is missing",
}
"""Phrases that have to be read twice, and what to write."""

EMPTY_NAMES = {"known", "here", "told", "ours", "wanted", "theirs"}
"""Names of locals that do not say what they hold."""


def assigned_names(tree: ast.AST) -> set[str]:
    """Locals that a file assigns, loops over, or opens."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_is_plain(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    found = {
        f"{number}: {line.strip()} (write: {better})"
        for number, line in enumerate(lines, 1)
        for phrase, better in DIALECT.items()
        if re.search(phrase, line)
    }
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_locals_say_what_they_hold(path):
    assert not assigned_names(ast.parse(path.read_text(encoding="utf-8"))) & EMPTY_NAMES
