"""The licences of every package that `make install` brings, from their own metadata.

    python -m tests.tools.licences > docs/licences.md

Weights and data have licences of their own: docs/weights.md.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

from tests.support import REPOSITORY

SHARE_ALIKE = ("GPL", "MPL", "Mozilla", "EUPL", "CDDL")
"""Marks of licences that ask for more than a notice."""

_LONGEST = 60


def locked() -> dict[str, str]:
    """Name and version of every line of constraints.txt."""
    lines = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==", 1) for line in lines if "==" in line and not line.startswith("#"))


def licence(name: str) -> str | None:
    """What the installed package says of its licence, None where it is not installed or says nothing."""
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if expression := about.get("License-Expression"):
        return str(expression)
    classified = [
        value.rpartition(" :: ")[2]
        for value in about.get_all("Classifier") or ()
        if value.startswith("License :: ") and value != "License :: OSI Approved"
    ]
    if classified:
        return "; ".join(classified)
    # Some give the whole text of the licence, whose first line names it.
    said = next((line.strip() for line in (about.get("License") or "").splitlines() if line.strip()), "")
    return said[:_LONGEST] or _from_files(name)


def _from_files(name: str) -> str | None:
    for file in metadata.files(name) or ():
        if re.match(r"(LICEN[CS]E|COPYING)", file.name, re.IGNORECASE):
            text = file.locate().read_text(encoding="utf-8", errors="replace")
            return next((line.strip()[:_LONGEST] for line in text.splitlines() if line.strip()), None)
    return None


def table() -> str:
    """The page, in Markdown."""
    rows, missing = [], []
    for name, version in sorted(locked().items(), key=lambda item: item[0].lower()):
        found = licence(name)
        if found is None:
            missing.append(name)
        mark = "yes" if any(word in (found or "") for word in SHARE_ALIKE) else ""
        rows.append(
            f"| {name} | {version} | {(found or 'not installed here, or not said').replace('|', '/')} | {mark} |"
        )
    head = [
        "# Licences of what is installed",
        "",
        "Packages that `make install` brings, development tools included, as their own metadata say, made by",
        "`python -m tests.tools.licences > docs/licences.md`. cuepack is distributed without any of them. Weights have",
        "licences of their own: [weights](weights.md).",
        "",
        "| package | version | licence | share-alike |",
        "| --- | --- | --- | --- |",
    ]
    if missing:
        print(f"no licence found for {', '.join(missing)}", file=sys.stderr)
    return "\n".join([*head, *rows]) + "\n"


if __name__ == "__main__":
    print(table(), end="")
