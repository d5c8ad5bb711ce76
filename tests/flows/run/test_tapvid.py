"""TAP-Vid's files read without running them."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from extractors.errors import CorruptDataError, SourceError, UnsafePickleError
from flows.run.tapvid import MarkedVideo, read_tapvid, tapvid_files


def entry(n_frames: int = 4, n_points: int = 3, **changes: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "video": rng.integers(0, 255, (n_frames, 24, 32, 3), dtype=np.uint8),
        "points": rng.uniform(0, 1, (n_points, n_frames, 2)).astype(np.float32),
        "occluded": rng.uniform(size=(n_points, n_frames)) < 0.3,
        **changes,
    }


def write(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, 4))
    return path


@pytest.mark.parametrize("keep", [dict, list])
def test_videos_come_from_dicts_as_davis_has_and_lists_as_rgb_stacking_has(tmp_path: Path, keep: type):
    content = {"a": entry(), "b": entry(6, 2)}
    file = write(tmp_path / "part.pkl", content if keep is dict else list(content.values()))
    read = dict(read_tapvid(file))
    assert list(read) == (["part/a", "part/b"] if keep is dict else ["part/0", "part/1"])
    video = next(iter(read.values()))
    assert isinstance(video, MarkedVideo)
    np.testing.assert_array_equal(video.pixels, content["a"]["video"])
    np.testing.assert_array_equal(video.places, content["a"]["points"].transpose(1, 0, 2))
    np.testing.assert_array_equal(video.visible, ~content["a"]["occluded"].T)


def test_frames_that_are_jpegs_are_decoded(tmp_path: Path):
    frames = [cv2.imencode(".jpg", np.full((24, 32, 3), 60 * t, np.uint8))[1].tobytes() for t in range(4)]
    (_, video), *_ = read_tapvid(write(tmp_path / "part.pkl", [entry(video=frames)]))
    assert isinstance(video, MarkedVideo)
    assert video.pixels.shape == (4, 24, 32, 3)
    assert abs(int(video.pixels[3].mean()) - 180) <= 1


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"video": np.zeros((4, 24, 32), np.uint8)}, r"wants a video of \(T, H, W, 3\) uint8, got \(4, 24, 32\)"),
        ({"video": np.zeros((4, 24, 32, 3), np.float32)}, "got .* float32"),
        ({"video": []}, "got list"),
        ({"video": [b"no jpeg"] * 4}, "frame 0"),
        ({"points": np.zeros((3, 5, 2), np.float32)}, r"wants points \(N, 4, 2\)"),
        ({"occluded": np.zeros((4, 3), bool)}, r"occluded \(N, 4\)"),
        ({"points": np.full((3, 4, 2), np.nan, np.float32)}, "not finite"),
    ],
)
def test_a_video_that_is_wrong_fails_alone(tmp_path: Path, changes: dict[str, Any], problem: str):
    file = write(tmp_path / "part.pkl", {"bad": entry(**changes), "good": entry()})
    read = dict(read_tapvid(file))
    assert isinstance(read["part/good"], MarkedVideo)
    assert isinstance(read["part/bad"], CorruptDataError)
    with pytest.raises(CorruptDataError, match=problem):
        raise read["part/bad"]


@pytest.mark.parametrize("content", [{}, [], 7, {"a": [1, 2]}, ["text"]])
def test_a_file_without_videos_says_so(tmp_path: Path, content: Any):
    file = write(tmp_path / "part.pkl", content)
    with pytest.raises(CorruptDataError, match="wants"):
        _raise_first(file)


def _raise_first(file: Path) -> None:
    for _, video in read_tapvid(file):
        assert isinstance(video, CorruptDataError)
        raise video


class _Runs:
    """Unpickles by making a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def test_a_hostile_file_is_refused_and_not_run(tmp_path: Path):
    file = write(tmp_path / "part.pkl", {"a": entry(), "b": _Runs(tmp_path / "made")})
    with pytest.raises(UnsafePickleError, match="nothing in it was run"):
        list(read_tapvid(file))
    assert not (tmp_path / "made").exists()


def test_files_are_taken_in_natural_order(tmp_path: Path):
    for name in ("split10.pkl", "split9.pkl"):
        write(tmp_path / name, [entry()])
    assert [file.name for file in tapvid_files(tmp_path)] == ["split9.pkl", "split10.pkl"]
    assert tapvid_files(tmp_path / "split9.pkl") == [tmp_path / "split9.pkl"]
    with pytest.raises(SourceError, match=r"no \.pkl file"):
        tapvid_files(tmp_path / "nothing")
