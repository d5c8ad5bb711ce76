"""What each rule of the weight-free tracker earns: each is switched off alone, on episodes with truth.

    python -m tests.benchmarks.ablation ../shared/data/groundtruth_dev sample          # all switches
    python -m tests.benchmarks.ablation ../shared/data/groundtruth_dev --only velocity   # one, or some
    python -m tests.benchmarks.ablation --count                                        # lines and hand-set numbers

A switch is a piece of source text and its replacement, applied to a copy of `extractors/` that a process of its own
measures. A switch whose text is no longer in the source is an error, so that this table cannot fall behind the code.

Tracks are judged by TAP-Vid delta_avg and AJ on the truth's own object queries and on the moving and static points of
its grid, the mean over all episodes. What earns less than 0.01 of all its metrics is deleted, where that also holds on
generated episodes (`cuepack sample --scenes`). docs/benchmarks.md names what was kept, and why.

Counted as a line: what is neither blank, comment nor docstring. Counted as a hand-set number: a numeric literal other
than 0, 1, 2 and 255 (and their negatives) that is not part of a subscript.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
WING = (
    "extractors/backends/nano/segmenter.py",
    "extractors/backends/lucas_kanade.py",
    "extractors/backends/layers",
    "extractors/backends/mask_cleanup.py",
    "extractors/mask_choice.py",
    "extractors/moments.py",
    "extractors/mask_linking.py",
    "extractors/packed_masks.py",
    "extractors/track_queries.py",
)


@dataclass(frozen=True)
class Switch:
    """One thing that is switched off.

    Attributes:
        name: what is off.
        file: path in the repository.
        old, new: the text that is replaced, and what replaces it.
    """

    name: str
    file: str
    old: str
    new: str


LAYERS = "extractors/backends/layers"
RULE, LAYER, ASSIGNING = f"{LAYERS}/rule.py", f"{LAYERS}/layer.py", f"{LAYERS}/assigning.py"
TRACKER = "extractors/backends/lucas_kanade.py"

SWITCHES = (
    Switch("settled by neighbours", ASSIGNING, "winner = self._settled(costs, kept)", "pass"),
    Switch("hiding", RULE, "hiding: float = 0.87", "hiding: float = 1.0"),
    Switch(
        "second round of regions",
        RULE,
        "cells: tuple[int, ...] = (40, 12)",
        "cells: tuple[int, ...] = (40,)",
    ),
    Switch(
        "layers followed again",
        ASSIGNING,
        "if not np.array_equal(layer == index, before == index)]",
        "if False]",
    ),
    Switch("background seen", ASSIGNING, "            if behind:\n", "            if False:\n"),
    Switch("smoothing over neighbours", ASSIGNING, "alike / alike.sum(axis=1, keepdims=True)", "np.eye(len(points))"),
    Switch("rest is kept", LAYER, "if fit.score < self._rule.rest:", "if fit.score < 0:"),
    Switch("velocity", LAYER, "mean(axis=0) - place.mean(axis=0)", "mean(axis=0) * 0"),
    Switch("registration again", LAYER, "self._attempts if fit.score", "1 if fit.score"),
    Switch("points weighed by trust", LAYER, "self.weights * trust * np", "self.weights * np"),
    Switch(
        "support points",
        ASSIGNING,
        "    if not len(lattice):\n",
        "    if True:\n        return np.empty((0, 2))\n    if not len(lattice):\n",
    ),
    Switch(
        "score with the frame before",
        LAYER,
        "difference += np.minimum(self._unlike(warped, previous), cut)\n",
        "difference *= 2.0\n",
    ),
    Switch("registration with the frame before", LAYER, "0.3 * matches[1][1]", "0.0 * matches[1][1]"),
    Switch("affine part", RULE, "affinity: float = 0.06", "affinity: float = 1e-6"),
    Switch(
        "hidden: own colour",
        TRACKER,
        "hidden = layer.hidden(t, motion)",
        "hidden = layer.differences(t, motion)",
    ),
    Switch("layers altogether", ASSIGNING, "for cells in rule.cells:", "for cells in ():"),
)
"""Everything that can be switched off, one at a time."""


def measure_tracks(truth: list[str]) -> dict[str, float]:
    """Means of delta_avg and AJ of `lucas-kanade` over all episodes, and the CPU seconds of all of them."""
    from extractors.build import TRACKERS
    from tests.benchmarks.track_accuracy import COLUMNS, judge

    rows: list[list[float]] = []
    seconds = 0.0
    for each in _episodes(truth):
        start = time.process_time()
        scores = judge(each, TRACKERS["lucas-kanade"]())["scores"]
        seconds += time.process_time() - start
        rows.append(
            [value for column in COLUMNS for value in (scores[column].delta_avg, scores[column].average_jaccard)]
        )
    means = np.nanmean(np.array(rows), axis=0)
    names = [f"{column} {metric}" for column in COLUMNS for metric in ("d_avg", "AJ")]
    return {**dict(zip(names, means.tolist(), strict=True)), "cpu s": seconds}


def _episodes(truth: list[str]) -> Iterator:  # type: ignore[type-arg]
    from tests.benchmarks.accuracy import read_sample
    from tests.benchmarks.groundtruth import read_folder

    for name in truth:
        if name == "sample":
            with tempfile.TemporaryDirectory() as folder:
                yield from read_sample(Path(folder), "")
        else:
            yield from read_folder(Path(name))


def measured(switch: Switch | None, truth: list[str]) -> dict[str, float]:
    """What a process measures on a copy of the source with `switch` applied."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("scoring", "tests", "flows", "packers"):
            (Path(folder) / name).symlink_to(REPOSITORY / name)
        shutil.copytree(REPOSITORY / "extractors", Path(folder) / "extractors")
        if switch is not None:
            path = Path(folder) / switch.file
            text = path.read_text()
            if switch.old not in text:
                raise SystemExit(
                    f"the switch {switch.name!r} is stale: {switch.old!r} is not in {switch.file}; mend it"
                )
            path.write_text(text.replace(switch.old, switch.new))
        command = [sys.executable, "-m", "tests.benchmarks.ablation", "--measure", *truth]
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"failed": float("nan"), done.stderr.strip().splitlines()[-1][:100]: float("nan")}
        return dict(json.loads(done.stdout.splitlines()[-1]))


def counts(paths: Iterable[str] = WING) -> dict[str, tuple[int, int, int]]:
    """Per file: lines in all, lines of code, hand-set numbers; see the module's text for the rule."""
    out = {}
    for name in paths:
        path = REPOSITORY / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            text = file.read_text()
            out[str(file.relative_to(REPOSITORY))] = len(text.splitlines()), _code_lines(text), _hand_set(text)
    return out


def _code_lines(text: str) -> int:
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent | {tokenize.ENDMARKER}:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def _hand_set(text: str) -> int:
    tree = ast.parse(text)
    indices = {inner for node in ast.walk(tree) if isinstance(node, ast.Subscript) for inner in ast.walk(node.slice)}
    return sum(
        isinstance(node, ast.Constant)
        and isinstance(node.value, int | float)
        and not isinstance(node.value, bool)
        and node.value not in (0, 1, 2, 255)
        and node not in indices
        for node in ast.walk(tree)
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", nargs="*", help="folders of ground-truth episodes (*.npz), or: sample")
    parser.add_argument("--only", nargs="+", help="names of switches; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once; default: 2")
    parser.add_argument("--count", action="store_true", help="print lines and hand-set numbers, and measure nothing")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.count:
        found = counts()
        for name, row in [*found.items(), ("all", tuple(map(sum, zip(*found.values(), strict=True))))]:
            print(f"{name:45s} {row[0]:6d} lines {row[1]:6d} of code {row[2]:5d} hand-set numbers")
        return
    if options.measure:
        print(json.dumps(measure_tracks(options.truth)))
        return
    truth = [name if name == "sample" else str(Path(name).resolve()) for name in options.truth]
    chosen = [each for each in SWITCHES if not options.only or each.name in options.only]
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    with ThreadPoolExecutor(options.jobs) as pool:
        whole = pool.submit(measured, None, truth)
        results = [(each, pool.submit(measured, each, truth)) for each in chosen]
        base = whole.result()
        print(_row("as it is", base), flush=True)
        for each, result in results:
            lost = {name: value - base.get(name, float("nan")) for name, value in result.result().items()}
            print(_row(each.name, lost), flush=True)


def _row(name: str, values: dict[str, float]) -> str:
    return f"{name:44s}" + "  ".join(f"{key} {value:+.3f}" for key, value in values.items())


if __name__ == "__main__":
    main()
