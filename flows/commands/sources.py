"""`cuepack score`, `cuepack sample`, and `cuepack inspect` of a source: what a source holds, and one to begin with."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn, TextIO

import click

from extractors.errors import ConfigError
from flows.commands.options import FAILED, FINISHED, FilePath, LocalPath, assignments, print_json
from packers.atomic import built_aside

SCENE_KINDS = ("pick-place", "push", "pull", "open", "idle", "turn")
CAMERA_PATHS = ("still", "trembling", "nudged", "drifting", "hand-held", "carried")
"""Those of `flows.scenes.skills.SKILLS` and `flows.scenes.camera_paths.PATHS`, listed here too so that the command
line's help loads no OpenCV; a test compares the lists."""


@click.command()
@click.argument("source")
@click.option("--out", type=LocalPath(), help="Write a csv file [default: standard output].")
@click.option("--config", "config_file", type=FilePath(), help="Settings in a YAML file.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeat.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many episodes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def score(source: str, out: Path | None, limit: int | None, as_json: bool, **options: Any) -> None:
    """Score the episodes of SOURCE by their metadata alone: no model, no video decoding."""
    from flows.config import load_config

    config = load_config(options["config_file"], assignments(options))
    rows = _scored(source, config, limit)
    if as_json:
        episodes = list(rows)
        if out is not None:
            _write_csv(iter(episodes), out)
        print_json("score", FINISHED, counts={"episodes": len(episodes)}, episodes=episodes)
        return
    count = _write_csv(rows, out)
    if out is not None:
        print(f"{count} episodes scored -> {out}")


def _scored(source: str, config: Any, limit: int | None) -> Iterator[dict[str, Any]]:
    from flows.sources.detect import open_source
    from scoring.criteria import best_possible_score, score_metadata

    for count, info in enumerate(open_source(source, config.source).episodes()):
        if limit is not None and count >= limit:
            return
        scores = score_metadata(info.language_instruction, info.n_frames, info.fps, config.scoring)
        yield {
            "episode_id": info.episode_id,
            "episode_index": info.episode_index,
            "n_frames": info.n_frames,
            "language_instruction": info.language_instruction,
            "score": scores["score"],
            "score_task": scores["task"],
            "score_length": scores["length"],
            "score_at_most": best_possible_score(scores, config.scoring),
            "cameras": ";".join(info.cameras),
            "tags": ";".join(info.tags),
        }


def _write_csv(rows: Iterator[dict[str, Any]], out: Path | None) -> int:
    """Writes the rows as csv; a file is replaced only when all rows are written."""
    if out is None:
        return _write_rows(rows, sys.stdout)
    try:
        with (
            built_aside(out) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
        ):
            return _write_rows(rows, file)
    except OSError as error:
        raise ConfigError(f"--out {out} cannot be written: {error}; name a file in a folder that is there") from error


def _write_rows(rows: Iterator[dict[str, Any]], file: TextIO) -> int:
    count = 0
    for count, row in enumerate(rows, start=1):
        if count == 1:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
        writer.writerow(row)
    return count


def inspect_and_exit(path: str, settings: Sequence[str], *, as_json: bool) -> NoReturn:
    """Prints what the source at `path` holds and what is wrong with it; exit code 1 where something is."""
    from flows.config import load_config
    from flows.sources.detect import open_source
    from flows.sources.inspect import format_report, inspect_source

    report = inspect_source(open_source(path, load_config(None, settings).source))
    code = FAILED if report.faults else FINISHED
    if as_json:
        counts = {"episodes": report.episodes, "faults": report.faults, "remarks": len(report.remarks)}
        print_json("inspect", code, counts=counts, source=asdict(report))
    else:
        print(format_report(report, path))
    sys.exit(code)


@click.command()
@click.option("--out", required=True, type=LocalPath(), help="Directory to write the sample into.")
@click.option("--scenes", type=click.IntRange(1, 1_000_000), help="Generate so many episodes instead (extra `scenes`).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the generated episodes.")
@click.option(
    "--kind",
    type=click.Choice(SCENE_KINDS),
    help="What the robot does in generated episodes; none: any of them but turn.",
)
@click.option("--side", type=click.IntRange(32, 1024), default=256, show_default=True, help="Their width, pixels.")
@click.option("--frames", type=click.IntRange(2, 2000), default=60, show_default=True, help="Their most frames.")
@click.option(
    "--camera", "moves", type=click.Choice(CAMERA_PATHS), default="still", show_default=True, help="How theirs moves."
)
@click.option("--one-camera", is_flag=True, help="All generated episodes before one camera, as a set-up has it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def sample(out: Path, scenes: int | None, as_json: bool, **drawn: Any) -> None:
    """Write the bundled sample episodes: simulated pick-and-place with exact ground truth.

    With --scenes, generate others: random tables, things, robots and cameras, an npz file each, with masks, depth,
    tracks, poses and contact. The same seed gives the same episodes.
    """
    if scenes is None:
        from flows.sources.sample import write_sample

        written = write_sample(out)
    else:
        from flows.scenes.episodes import write_scenes

        side = drawn["side"]
        chosen = {name: drawn[name] for name in ("kind", "frames", "one_camera", "moves")}
        written = list(write_scenes(out, scenes, drawn["seed"], size=(side, side), **chosen))
    if as_json:
        name = "folders" if scenes is None else "files"
        print_json("sample", FINISHED, counts={name: len(written)}, **{name: [str(each) for each in written]})
        return
    for each in written:
        print(each)
