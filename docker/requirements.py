"""Prints the dependencies that pyproject.toml names, and those of the extras given, for a layer without the code.

python requirements.py pyproject.toml [EXTRA...] > requirements.txt
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(file: Path, extras: list[str]) -> list[str]:
    """One requirement per element; an extra that names this package itself is left out."""
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    found = [*project["dependencies"]]
    for extra in extras:
        found += [each for each in project["optional-dependencies"][extra] if not each.startswith(project["name"])]
    return found


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
