"""Metadata scoring, decoding, the pipeline's own overhead, and peak memory on a long clip.

    python -m tests.benchmarks.pipeline [--shared ../shared/data] [--episodes 64] [--only score,decode,overhead,memory]

Everything is built from the bundled sample and from synthetic video; `--shared` adds the decoding of real data.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pandas as pd

from flows.sources.detect import open_source
from flows.sources.sample import write_sample
from scoring.criteria import score_metadata
from scoring.settings import ScoringSettings

CUEPACK = [sys.executable, "-c", "from flows.cli import main; main()"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, help="folder of the development data")
    parser.add_argument("--episodes", type=int, default=64, help="episodes of the overhead measurement")
    parser.add_argument("--frames", type=int, default=2000, help="frames of the memory measurement")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure overhead with recorded masks and no tracks: stages are short, so its share is an upper bound",
    )
    parser.add_argument("--only", default="score,decode,overhead,memory")
    options = parser.parse_args()
    print(f"{platform.machine()}, {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        for name, measure in (
            ("score", lambda: measure_scoring(work)),
            ("decode", lambda: measure_decoding(work, options.shared)),
            ("overhead", lambda: measure_overhead(work, options.episodes, quick=options.quick)),
            ("memory", lambda: measure_memory(work, options.frames)),
        ):
            if name in options.only.split(","):
                print(f"\n{name}")
                measure()


def measure_scoring(work: Path, count: int = 60_000) -> None:
    """Lists and scores a LeRobot v3.0 data set of `count` episodes by its metadata."""
    root = work / "lerobot60k"
    _lerobot_metadata(root, count)
    started = time.perf_counter()
    settings = ScoringSettings()
    scored = sum(
        score_metadata(info.language_instruction, info.n_frames, info.fps, settings)["score"] is not None
        for info in open_source(str(root)).episodes()
    )
    seconds = time.perf_counter() - started
    assert scored == count, f"{scored} of {count} episodes were scored"
    print(f"  {scored} episodes in {seconds:.1f} s: {scored / seconds:.0f} episodes/s (target: 60,000 in 120 s)")


def measure_decoding(work: Path, shared: Path | None) -> None:
    """Source frames per second, one thread of Python, per source."""
    write_sample(work / "sample")
    sources = [work / "sample" / "bridge_raw", work / "sample" / "lerobot_v30"]
    if shared is not None:
        sources += [
            shared / name
            for name in (
                "bridge_raw/good",
                "bridge_rlds/bridge_dataset/1.0.0",
                "lerobot_v20/video_av1",
                "lerobot_v30/video_av1",
                "lerobot_v30/video_h264",
                "lerobot_v30/image",
                "real_extra/bridge_teaser_videos",
                "real_extra/lerobot_v20_gr1_sim",
            )
        ]
    for path in sources:
        source = open_source(str(path))
        frames, started = 0, time.perf_counter()
        for info in source.episodes():
            episode = source.open(info)
            frames += sum(1 for _ in episode.pixels)
        seconds = time.perf_counter() - started
        print(f"  {source.kind:14s} {frames / seconds:7.0f} frames/s  {frames:5d} frames  {path.name}")


def measure_overhead(work: Path, count: int, *, quick: bool = False) -> None:
    """Wall time of a whole run beside the sum of its stages, one worker, with and without Prefect."""
    source = _many_episodes(work, count)
    settings = ["--set", "masks.backend=recorded", "--set", "tracks.backend=off"] if quick else []
    for label, options in (("plain", ["--no-prefect"]), ("Prefect", [])):
        out = work / f"out-{label}"
        started = time.perf_counter()
        subprocess.run(
            [
                *CUEPACK,
                "extract",
                str(source),
                "--out",
                str(out),
                "--profile",
                "cpu",
                "--workers",
                "1",
                "-q",
                *settings,
                *options,
            ],
            check=True,
        )
        wall = time.perf_counter() - started
        run = json.loads((out / "run.json").read_text())
        table = pd.read_parquet(out / "manifest.parquet")
        stages = float(table[[name for name in table if name.startswith("seconds_")]].sum().sum())
        startup = run["seconds"]["startup"]
        overhead = wall - startup - stages
        print(
            f"  {label:8s} {len(table)} episodes: stages {stages:.1f} s, start-up {startup:.1f} s, "
            f"the rest {overhead:.1f} s = {100 * overhead / stages:.1f} % of the stages (target: under 5 %)"
        )


def measure_memory(work: Path, n_frames: int) -> None:
    """Peak resident memory of a run on one 1280 x 720 video."""
    folder = work / "video"
    folder.mkdir()
    _write_video(folder / "pick_up_the_square.mp4", n_frames, 1280, 720)
    started = time.perf_counter()
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    command = [*CUEPACK, "extract", str(folder), "--out", str(work / "out-video"), "--profile", "cpu", "--no-prefect"]
    done = subprocess.run([sys.executable, "-c", script, *command, "-q"], check=True, capture_output=True, text=True)
    peak = int(done.stdout.splitlines()[-1]) / 1024
    packet_arrays = n_frames * 224 * 224 * 3 / 2**20
    print(
        f"  {n_frames} frames of 1280 x 720: peak {peak:.0f} MiB in {time.perf_counter() - started:.0f} s; the clip is "
        f"{n_frames * 1280 * 720 * 3 / 2**20:.0f} MiB decoded, {packet_arrays:.0f} MiB at packet size"
    )


def _many_episodes(work: Path, count: int) -> Path:
    """A BridgeData folder of `count` trajectories, copies of the sample's."""
    write_sample(work / "sample")
    trajectories = sorted((work / "sample" / "bridge_raw").rglob("traj[0-9]*"))
    trajectories = [path for path in trajectories if path.parent.name.startswith("traj_group")]
    root = work / "many"
    for index in range(count):
        original = trajectories[index % len(trajectories)]
        dated = original.parents[2]
        target = root / dated.parent.name / f"{index:04d}" / dated.name
        shutil.copytree(original, target / "raw" / "traj_group0" / "traj0", dirs_exist_ok=True)
        for extra in ("config.json", "collection_metadata.json"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(dated / extra, target / extra)
    return root


def _lerobot_metadata(root: Path, count: int) -> None:
    tasks = ["put the carrot on the plate", "pick up the cup", "fold the towel", "open the drawer"]
    (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
    key = "observation.images.main"
    info = {
        "codebase_version": "v3.0",
        "fps": 5,
        "total_episodes": count,
        "total_frames": 38 * count,
        "total_tasks": len(tasks),
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
        "features": {
            key: {"dtype": "video", "shape": [480, 640, 3], "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": [7], "names": None},
        },
    }
    (root / "meta" / "info.json").write_text(json.dumps(info))
    pd.DataFrame({"task_index": range(len(tasks))}, index=tasks).to_parquet(root / "meta" / "tasks.parquet")
    episodes = np.arange(count)
    table = pd.DataFrame(
        {
            "episode_index": episodes,
            "tasks": [[tasks[i % len(tasks)]] for i in episodes],
            "length": 10 + episodes % 50,
            "data/chunk_index": 0,
            "data/file_index": episodes // 1000,
            "dataset_from_index": episodes * 38,
            "dataset_to_index": episodes * 38 + 38,
            f"videos/{key}/chunk_index": 0,
            f"videos/{key}/file_index": episodes // 1000,
            f"videos/{key}/from_timestamp": (episodes % 1000) * 7.6,
            f"videos/{key}/to_timestamp": (episodes % 1000) * 7.6 + 7.6,
        }
    )
    table.to_parquet(root / "meta" / "episodes" / "chunk-000" / "file-000.parquet")
    # Empty: listing asks whether a file is there, and reads none.
    for number in range(-(-count // 1000)):
        for path in (f"data/chunk-000/file-{number:03d}.parquet", f"videos/{key}/chunk-000/file-{number:03d}.mp4"):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()


def _write_video(path: Path, n_frames: int, width: int, height: int) -> None:
    """A textured square that crosses a textured, still background."""
    rng = np.random.default_rng(0)
    background = np.kron(rng.integers(60, 200, (height // 8, width // 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    square = np.kron(rng.integers(0, 255, (12, 12, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "28"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(n_frames):
            frame = background.copy()
            x = 40 + int((width - 200) * (0.5 - 0.5 * np.cos(2 * np.pi * t / n_frames)))
            frame[300:396, x : x + 96] = square
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
