"""Window planning and stitching against the published scheme done plainly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from extractors.backends.vda_windows import LENGTH, Stitcher, fit_scale_shift, plan_windows, published_windows
from tests.published_depth import stitch, window_frames


@pytest.mark.parametrize(
    ("n_frames", "published"), [(5, 1), (22, 1), (23, 2), (32, 2), (38, 2), (44, 2), (45, 3), (70, 4)]
)
def test_the_published_scheme_runs_a_window_every_22_frames(n_frames: int, published: int):
    assert published_windows(n_frames) == published == len(window_frames(n_frames))


@pytest.mark.parametrize("n_frames", range(1, 101))
def test_stitching_gives_what_the_published_scheme_gives(n_frames: int):
    rng = np.random.default_rng(n_frames)
    frames = window_frames(n_frames)
    truth = rng.uniform(0, 5, (n_frames, 4, 6))
    raw = [
        (rng.uniform(0.5, 2) * truth[slots] + rng.uniform(-1, 1) + rng.normal(0, 0.1, (32, 4, 6))).astype(np.float32)
        for slots in frames
    ]
    windows = plan_windows(n_frames)
    assert [list(window.frames) for window in windows] == frames[: len(windows)]
    stitcher = Stitcher(windows)
    pieces = [
        stitcher.add(torch.from_numpy(maps[list(window.decoded)])) for window, maps in zip(windows, raw, strict=False)
    ]
    assert all(len(piece) for piece in pieces)
    np.testing.assert_allclose(torch.cat(pieces), stitch(raw, n_frames), rtol=0, atol=2e-5)


def test_a_window_that_enters_with_weight_zero_is_not_run():
    assert [len(plan_windows(n)) for n in (22, 23, 24, 25, 26, 44, 47, 48)] == [1, 1, 1, 1, 2, 2, 2, 3]


def test_later_windows_start_with_the_first_frame_and_key_frames():
    third = plan_windows(70)[2]
    assert third.frames[:12] == (0, 34, *range(46, 54), 54, 55)
    assert third.kept == {0, 56, *range(68, 70)}


def test_what_a_long_clip_keeps_does_not_grow():
    windows = plan_windows(2000)
    assert max(len(window.kept) for window in windows) == 10
    assert all(len(set(window.frames)) <= LENGTH for window in windows)


def test_metric_windows_are_joined_as_they_are():
    windows = plan_windows(30)
    stitcher = Stitcher(windows, align=False)
    raw = [np.full((32, 2, 2), value, np.float32) for value in (1.0, 3.0)]
    out = torch.cat([stitcher.add(torch.from_numpy(m[list(w.decoded)])) for w, m in zip(windows, raw, strict=True)])
    assert stitcher.scale_shift == [(1.0, 0.0)]
    np.testing.assert_allclose(out, stitch(raw, 30, align=False), atol=1e-6)


def test_a_flat_prediction_keeps_its_scale():
    # float32 sums of 0.1 leave a tiny determinant, and with it a scale of thousands.
    assert fit_scale_shift(torch.full((2, 50, 70), 0.1), torch.rand(2, 50, 70)) == (1.0, 0.0)
    assert fit_scale_shift(torch.zeros(2, 5, 7), torch.rand(2, 5, 7)) == (1.0, 0.0)
