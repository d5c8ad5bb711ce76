"""`cuepack bench` on small files of our own making."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from extractors.types import OnCpu, Tracks
from flows.cli import main
from flows.run.bench import BenchSettings, bench_files, in_pixels, mean_results
from tests.support import square_clip

LUCAS_KANADE = ["--set", "tracks.backend=lucas-kanade"]


def carried_square(n_frames: int = 12, *, size: tuple[int, int] = (96, 128)) -> dict[str, Any]:
    """A square carried 4 px a frame, as TAP-Vid would mark it: points on it and on the table."""
    pixels = square_clip(n_frames)[0]
    height, width = size
    pixels = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_CUBIC) for frame in pixels])
    moved = 2.0 * np.arange(n_frames)[:, None]
    on_square = np.array([[7.0, 19], [10, 22], [13, 25]]) + moved[..., None] * [1, 0]
    on_table = np.broadcast_to(np.array([[5.0, 5], [50, 6], [30, 40]]), (n_frames, 3, 2))
    xy = np.concatenate([on_square, on_table], axis=1)  # pixel centres of the 48 x 64 clip
    places = (xy + 0.5) / [64, 48]
    return {
        "video": pixels,
        "points": places.transpose(1, 0, 2).astype(np.float32),
        "occluded": np.zeros((6, n_frames), bool),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = {"one": carried_square(), "two": carried_square(8)}
    (tmp_path / "mine.pkl").write_bytes(pickle.dumps(content, 4))
    return tmp_path


def bench(*arguments: Any) -> Any:
    return CliRunner().invoke(main, ["bench", "--dataset", "tapvid", *map(str, arguments)])


def test_lucas_kanade_is_judged_on_each_video_and_on_average(folder: Path):
    result = bench("--path", folder, *LUCAS_KANADE, "--json")
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert said["counts"] == {"videos": 2, "failed": 0}
    assert [video["name"] for video in said["videos"]] == ["mine/one", "mine/two"]
    own = {row["mode"]: row for row in said["means"] if row["threshold"] == "own"}
    assert own["first"]["n_points"] == 6 + 6
    assert own["strided"]["n_points"] == 6 * 3 + 6 * 2  # frames 0, 5, 10 and 0, 5
    for row in own.values():
        assert row["average_jaccard"] > 0.8
        assert row["delta_avg"] > 0.9
        assert row["occlusion_accuracy"] > 0.9
    assert {row["threshold"] for row in said["means"]} == {"own", *(f"0.{digit}" for digit in range(1, 10))}


def test_the_text_states_the_rules_and_prints_published_rows_with_their_source(folder: Path):
    result = bench("--path", folder, *LUCAS_KANADE, "--sweep", "--limit", 1)
    assert result.exit_code == 0
    for part in ("pixel centres by edges", "pixel centres by centres", "visible: above 0.5", "mean over 1 of 1 videos"):
        assert part in result.output
    published = [line for line in result.output.splitlines() if "69.2" in line]
    assert published
    assert "BootsTAPIR" in published[0]
    assert "google-deepmind/tapnet" in published[0]


def test_one_bad_video_or_file_fails_alone(folder: Path):
    (folder / "cut.pkl").write_bytes((folder / "mine.pkl").read_bytes()[:500])
    (folder / "other.pkl").write_bytes(pickle.dumps({"bad": {"video": 1}, "good": carried_square(6)}))
    result = bench("--path", folder, *LUCAS_KANADE, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["counts"] == {"videos": 5, "failed": 2}
    failed = {video["name"]: video["error"] for video in said["videos"] if video["error"]}
    assert "not a whole pickle" in failed["cut.pkl"]
    assert "wants video, points and occluded" in failed["other/bad"]


def test_a_folder_without_files_and_no_tracker_are_usage_errors(tmp_path: Path, folder: Path):
    (tmp_path / "empty").mkdir()
    assert bench("--path", tmp_path / "empty", *LUCAS_KANADE).exit_code == 2
    assert bench("--path", folder, "--set", "tracks.backend=off").exit_code == 2
    assert bench("--path", folder, "--set", "tracks.backend=tapir", "--set", "tracks.weights=none.pt").exit_code == 2


class _Knows(OnCpu):
    """Gives the truth of the carried square, the centre of the first pixel at 0."""

    at_once = 1

    def __init__(self, off: float = 0.0, score: float = 0.75) -> None:
        self._off, self._score = off, score

    def prepare(self, pixels: Any) -> _Knows:
        self._n_frames, self._width = len(pixels), pixels.shape[2]
        return self

    def track(self, queries: Any, *, posed: str = "anywhere") -> Tracks:
        since = np.arange(self._n_frames)[:, None] - queries[:, 0]
        step = 2 * self._width / 64
        on_square = np.isin(np.rint((queries[:, 2] + 0.5) * 48 / 256 - 0.5), [19, 22, 25])
        xy = np.repeat(queries[None, :, 1:], self._n_frames, axis=0)
        xy[..., 0] += since * step * on_square + self._off
        score = np.full(since.shape, self._score, np.float32)
        return Tracks(xy.astype(np.float32), score > 0.5, np.ones_like(score), score, queries)


def test_the_truth_scores_one_and_half_a_pixel_more_does_not(folder: Path):
    results = list(bench_files([folder / "mine.pkl"], _Knows(), BenchSettings()))
    assert all(result.error is None for result in results)
    means = mean_results(results)
    for mode in ("first", "strided"):
        assert means[mode, "edges", "own"].average_jaccard == pytest.approx(1.0)
        assert means[mode, "edges", "0.7"].average_jaccard == pytest.approx(1.0)
        assert means[mode, "edges", "0.8"].average_jaccard == 0.0  # nothing is claimed visible
    off = mean_results(list(bench_files([folder / "mine.pkl"], _Knows(off=1.5), BenchSettings())))
    assert off["first", "edges", "own"].delta_avg == pytest.approx(0.8)


@pytest.mark.parametrize("size", [(256, 256), (96, 128), (31, 7)])
def test_shares_become_pixels_edge_to_edge(size: tuple[int, int]):
    places = np.array([[0, 0], [1, 1], [0.5, 0.5]], np.float32)
    height, width = size
    edges = in_pixels(places, size, "edges")
    np.testing.assert_allclose(edges, [[-0.5, -0.5], [width - 0.5, height - 0.5], [width / 2 - 0.5, height / 2 - 0.5]])
    np.testing.assert_allclose(in_pixels(places, size, "centres"), edges + 0.5)


def test_native_size_and_resized_frames_give_alike_scores(folder: Path):
    resized, native = (
        json.loads(bench("--path", folder, *LUCAS_KANADE, "--json", *more).stdout)["means"]
        for more in ([], ["--native"])
    )
    for one, other in zip(resized, native, strict=True):
        if one["threshold"] == "own":
            assert abs(one["delta_avg"] - other["delta_avg"]) < 0.1
