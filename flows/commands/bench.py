"""`cuepack bench`: a backend judged on a published data set."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from extractors.errors import ConfigError
from flows.commands.options import FAILED, FINISHED, FilePath, LocalPath, assignments, print_json

if TYPE_CHECKING:
    from flows.run.bench import Key, VideoResult
    from scoring.truth.tapvid import TapVidScores


@click.command()
@click.option("--dataset", type=click.Choice(["tapvid"]), required=True, help="Format of the files at --path.")
@click.option("--path", type=LocalPath(), required=True, help="Folder of .pkl files (RoboTAP, DAVIS, RGB-Stacking).")
@click.option("--native", is_flag=True, help="Track at the videos' own size [default: 256 x 256, as published].")
@click.option("--sweep", is_flag=True, help="Also give points under the other rule of pixel centres; twice the time.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many videos.")
@click.option("--profile", type=click.Choice(["auto", "cpu", "gpu", "gpu-open"]), help="Whose tracker is judged.")
@click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="One setting; repeat.")
@click.option("--config", "config_file", type=FilePath(), help="Settings in a YAML file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout, the rest on stderr.")
def bench(path: Path, native: bool, sweep: bool, limit: int | None, as_json: bool, **options: Any) -> None:
    """Score the configured tracker (tracks.backend) on TAP-Vid's files: AJ, delta_avg, OA per video and mean.

    Exit code 1 where a video could not be judged.
    """
    from itertools import islice

    from flows.config import load_config
    from flows.models.build import tracker
    from flows.run.bench import BenchSettings, bench_files
    from flows.run.tapvid import tapvid_files

    config = load_config(options["config_file"], assignments(options)).resolved().tracks
    if config.backend == "off":
        raise ConfigError("bench wants a tracker, tracks.backend is off; name one with --set tracks.backend=...")
    files = tapvid_files(path)
    settings = BenchSettings(visible_by=config.visible_by, sweep_centres=sweep)
    settings = BenchSettings(None, config.visible_by, sweep) if native else settings
    results = []
    for result in islice(bench_files(files, tracker(config), settings), limit):
        results.append(result)
        print(_line(result), file=sys.stderr if as_json else sys.stdout, flush=True)
    code = FAILED if any(result.error is not None for result in results) else FINISHED
    if as_json:
        _print_as_json(code, config.backend, results)
    else:
        _print_means(config.backend, results)
    sys.exit(code)


def _line(result: VideoResult) -> str:
    if result.error is not None:
        return f"failed  {result.name}: {result.error}"
    both = "  ".join(f"{mode} {_three(result.scores[mode, 'edges', 'own'])}" for mode in ("first", "strided"))
    return f"{result.name}  {result.n_frames} frames  {both}  {result.seconds:.1f} s"


def _three(scores: TapVidScores) -> str:
    return (
        f"AJ {100 * scores.average_jaccard:5.1f} delta_avg {100 * scores.delta_avg:5.1f} "
        f"OA {100 * scores.occlusion_accuracy:5.1f}"
    )


def _print_means(backend: str, results: Sequence[VideoResult]) -> None:
    from flows.run.bench import PUBLISHED, mean_results

    means = mean_results(results)
    judged = sum(result.error is None for result in results)
    print(f"\nmean over {judged} of {len(results)} videos, {backend}, percent")
    for (mode, centres, threshold), scores in means.items():
        visible = "the backend's own" if threshold == "own" else f"above {threshold}"
        print(f"  {mode:8s} pixel centres by {centres:8s} visible: {visible:18s} {_three(scores)}")
    print("\npublished AJ, percent (not measured here)")
    for row in PUBLISHED:
        print(f"  {row.tracker:18s} {row.data:8s} {row.mode:8s} {row.average_jaccard:5.1f}  {row.source}")


def _print_as_json(code: int, backend: str, results: Sequence[VideoResult]) -> None:
    from dataclasses import asdict

    from flows.run.bench import PUBLISHED, mean_results

    failed = sum(result.error is not None for result in results)
    print_json(
        "bench",
        code,
        counts={"videos": len(results), "failed": failed},
        backend=backend,
        videos=[
            {
                "name": result.name,
                "error": result.error,
                "n_frames": result.n_frames,
                "seconds": round(result.seconds, 2),
                "scores": [_row(key, scores) for key, scores in result.scores.items()],
            }
            for result in results
        ],
        means=[_row(key, scores) for key, scores in mean_results(results).items()],
        published=[asdict(row) for row in PUBLISHED],
    )


def _row(key: Key, scores: TapVidScores) -> dict[str, Any]:
    mode, centres, threshold = key
    return {
        "mode": mode,
        "centres": centres,
        "threshold": threshold,
        "average_jaccard": _number(scores.average_jaccard),
        "delta_avg": _number(scores.delta_avg),
        "occlusion_accuracy": _number(scores.occlusion_accuracy),
        "n_points": scores.n_points,
    }


def _number(value: float) -> float | None:
    """JSON has no NaN, the score where nothing was there to judge."""
    return None if value != value else value
