"""Counts that say how tidy the house is: `python -m tests.tools.house [FOLDER ...]`, a column for each checkout.

A checkout of an older state to compare with: `git worktree add ../before COMMIT`.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("extractors", "scoring", "packers", "flows")

MECHANISMS = {
    # One call of the standard library for each mechanism, which only its own file should make.
    "a file replaced in one step": r"os\.replace\(|\btemporary\.replace\(",
    "a file lock": r"fcntl\.flock\(",
    "a hand-made cache folder": r"Path\.home\(\) / \"\.cache\"",
    "a live object found under a string": r"^_(given|known|read): ",
    "a fixed sampling stride": r"\[:, ::[2-9]|\[::[2-9]",
    "a device found by getattr": r"getattr\([a-z_]+, \"device\"",
    "an error told as out of memory": r"def is_out_of_memory|torch\.OutOfMemoryError",
}
"""What a copy of each mechanism looks like."""

MOST_PARAMETERS = 9


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, default=[Path()], help="checkouts; default: this one")
    columns = [counts(folder) for folder in parser.parse_args().folders]
    width = max(len(name) for column in columns for name in column)
    for name in dict.fromkeys(name for column in columns for name in column):
        print(f"{name:<{width}}", *(f"{column.get(name, 0):>10}" for column in columns))


def counts(root: Path) -> dict[str, str | int]:
    """The rows of one checkout."""
    sources = list(python_files(root, PACKAGES))
    texts = {path: path.read_text(encoding="utf-8") for path in sources}
    comments, code = map(sum, zip(*(comments_and_lines(text) for text in texts.values()), strict=True))
    found: dict[str, str | int] = {
        "files directly in flows/": len(list((root / "flows").glob("*.py"))),
        "files of source": len(sources),
        "lines of source": sum(text.count("\n") for text in texts.values()),
        "lines of tests": sum(path.read_text().count("\n") for path in python_files(root, ("tests",))),
        "import circles": len(circles(imports(root, texts))),
        "comments in 100 lines of code": f"{100 * comments / code:.1f}",
        f"functions with more than {MOST_PARAMETERS} parameters": sum(many_parameters(text) for text in texts.values()),
    }
    for name, pattern in MECHANISMS.items():
        found[f"places with {name}"] = sum(len(re.findall(pattern, text, re.M)) for text in texts.values())
    return found


def python_files(root: Path, packages: tuple[str, ...]) -> Iterator[Path]:
    """The Python files of some packages, sorted."""
    for package in packages:
        yield from sorted((root / package).rglob("*.py"))


def comments_and_lines(text: str) -> tuple[int, int]:
    """(lines with a comment, lines of code without blank ones and docstrings)."""
    comments = {token.start[0] for token in tokens(text) if token.type == tokenize.COMMENT}
    documented: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            documented.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip() and number not in documented]
    return len(comments), len(lines)


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    """The tokens of a file."""
    return tokenize.generate_tokens(io.StringIO(text).readline)


def many_parameters(text: str) -> int:
    """How many functions take more than `MOST_PARAMETERS`, `self` and `cls` apart."""
    found = 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            found += len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS
    return found


def imports(root: Path, texts: dict[Path, str]) -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere, inside functions too."""
    names = {module_name(path.relative_to(root)) for path in texts}
    graph: dict[str, set[str]] = {}
    for path, text in texts.items():
        module = module_name(path.relative_to(root))
        graph[module] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                wanted = [f"{node.module}.{each.name}" for each in node.names]
                graph[module].update(name if name in names else node.module for name in wanted)
            elif isinstance(node, ast.Import):
                graph[module].update(each.name for each in node.names)
        graph[module] &= names - {module}
    return graph


def module_name(path: Path) -> str:
    """Dotted name of a file, a package's for its `__init__`."""
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of modules that reach each other (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in index:
            visit(node)
    return found


if __name__ == "__main__":
    main()
