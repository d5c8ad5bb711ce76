"""The command line: odd words in the place of its arguments, and output directories whose files are spoiled."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from click.testing import CliRunner

from flows import cli
from flows.output.annotations import Annotation, write_annotation
from flows.output.directory import OutputDirectory
from flows.sources.sample import SAMPLE
from tests.flows.remote_places import SETTINGS, TWO, extract
from tests.fuzz.mutate import VALUES, spoil_tree
from tests.fuzz.packets import use_forks

# `serve` and `deploy` talk to a server, `models fetch` to the hub, and `view` without --export does not end.
_LINES = (
    "extract SOURCE --out new --no-prefect --dry-run --limit 1 --workers 1 --set masks.backend=recorded --json",
    "extract SOURCE --out OUT --no-prefect --dry-run --episodes 0,1 --camera images0 --config OUT/config.yaml",
    "extract SOURCE --out OUT --no-prefect --dry-run --selection OUT/selection-best.csv --profile cpu --strict",
    "rerun OUT EPISODE --from pack --no-prefect --quiet",
    "score SOURCE --out scores.csv --limit 1 --set scoring.tracks_needed=3",
    "select OUT --top 1 --name some --seed 3 --val-share 0.5 --stratify task --json",
    "select OUT --random 1 --annotated accept --min-score 0.1 --compare OUT",
    "inspect PACKET --json",
    "inspect SOURCE --set source.fps=5",
    "stats OUT --json",
    "validate OUT --json",
    "verify OUT --source SOURCE --json",
    "view OUT --export pages --compare OUT",
    "view PACKET --render clip.png",
    "export OUT --format lewm-hdf5 --out joined.h5 --with contact --names study --split",
    "export OUT --format webdataset --out shards --selection OUT/selection-best.csv",
    "manifest rebuild OUT",
    "doctor --licence any --json",
    "models list",
)

_AFTER_DAMAGE = (
    "validate OUT",
    "verify OUT",
    "stats OUT",
    "select OUT --top 1 --name more --annotated accept",
    "inspect PACKET",
    "view OUT --export pages",
    "export OUT --format lewm-hdf5 --out joined.h5 --selection OUT/selection-best.csv",
    "rerun OUT EPISODE --from quality --no-prefect --quiet",
    "extract SOURCE --out OUT --no-prefect --dry-run --set masks.backend=recorded --set tracks.backend=off",
    "manifest rebuild OUT",
)


def command_line(folder: Path, rng: np.random.Generator) -> str:
    """A command with words changed, doubled or left out."""
    words = str(rng.choice(_LINES)).split()
    for _ in range(int(rng.choice([1, 1, 2, 3]))):
        at, kind = int(rng.integers(len(words))), int(rng.integers(5))
        if kind == 0:
            words.pop(at)
        elif kind == 1:
            words.insert(at, words[int(rng.integers(len(words)))])
        elif kind == 2 and "=" in words[at]:
            words[at] = f"{words[at].partition('=')[0]}={_odd(rng)}"
        else:
            words[at] = _odd(rng)
        if not words:
            return "nothing asked"
    if words[0] in ("serve", "deploy") or "fetch" in words or (words[0] == "view" and "--export" not in words):
        return "not tried"
    return _ran(folder, words)


def output_directory(folder: Path, rng: np.random.Generator) -> str:
    """One or two files of an output directory spoiled, then three commands on it, the last twice."""
    shutil.copytree(_good(), folder / "out")
    spoil_tree(folder / "out", rng)
    lines = [str(line) for line in rng.choice(_AFTER_DAMAGE, 3)]
    return ", ".join(sorted({_ran(folder, line.split()) for line in [*lines, lines[-1]]}))


CASES: dict[str, Callable[[Path, np.random.Generator], str]] = {
    "command_line": command_line,
    "output_directory": output_directory,
}


def _odd(rng: np.random.Generator) -> str:
    value = VALUES[int(rng.integers(len(VALUES)))]
    text = value if isinstance(value, str) else f"{value}"
    # A word that climbs out of the folder is what its user asks for, and no fault.
    return text.replace("..", "_").replace("\0", "")


def _ran(folder: Path, words: list[str]) -> str:
    """How a command ended; an exception that is not cuepack's own goes on to the fuzzer."""
    out = folder / "out"
    if not out.exists():
        shutil.copytree(_good(), out)
    packets = sorted(out.glob("packets/*/*.h5"))
    places = {
        "SOURCE": str(SAMPLE / "bridge_raw" / TWO[0]),
        "OUT": str(out),
        "PACKET": str(packets[0]) if packets else str(out),
        "EPISODE": packets[0].stem if packets else TWO[0],
    }
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    before = Path.cwd()
    os.chdir(folder)
    os.environ["CUEPACK_CACHE"] = str(folder / "cache")
    try:
        result = CliRunner().invoke(cli.main, words)
    finally:
        os.chdir(before)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "\x1b" not in result.output, "an escape sequence was printed"
    return f"exit code {result.exit_code}"


def _as_it_is(error: Exception, arguments: Any) -> NoReturn:
    raise error


@cache
def _good() -> Path:
    """An output directory of one episode, with everything that people put into one."""
    use_forks()
    cli._as_fault = _as_it_is
    folder = Path(tempfile.mkdtemp(prefix="good-"))
    out = folder / "out"
    extract(SAMPLE / "bridge_raw" / TWO[0], out, *SETTINGS)
    name = next(out.glob("packets/*/*.h5")).stem
    write_annotation(OutputDirectory.open(out), name, Annotation("accept", "good"))
    (out / "config.yaml").write_text("run:\n  workers: 1\nmasks:\n  backend: recorded\n")
    assert _written(out)
    return out


def _written(out: Path) -> bool:
    result = CliRunner().invoke(cli.main, ["select", str(out), "--top", "1", "--name", "best"])
    return result.exit_code == 0
