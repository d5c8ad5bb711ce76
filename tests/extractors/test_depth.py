"""Recorded depth, resizing along axes, scene cuts."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.backends.vda_network import SHAPES, Shape, VideoDepthNetwork
from extractors.build import DEPTH_ESTIMATORS
from extractors.cuts import scene_cuts
from extractors.depth import CONVENTIONS, average_readings, recorded_depth
from extractors.errors import LengthMismatchError, MissingDataError, ShapeError
from extractors.geometry import axis_matrix, axis_taps, resize_area
from extractors.types import Episode
from tests.parity import seed_model, synthetic_clip


def _episode(depth: NDArray[np.floating] | None, n_frames: int = 2) -> Episode:
    return Episode(
        episode_id="clip",
        episode_index=0,
        camera_name="image_0",
        language_instruction="",
        fps=5.0,
        pixels=np.zeros((n_frames, 6, 8, 3), np.uint8),
        timestamp=np.arange(n_frames) / 5,
        recorded_depth=depth,
    )


def test_recorded_depth_is_metric_and_area_averaged():
    maps = np.random.default_rng(0).uniform(1.0, 1.02, (2, 6, 8)).astype(np.float32)
    depth = recorded_depth(_episode(maps), size=(3, 2))
    assert depth.kind == "metric"
    assert depth.values.dtype == np.float32
    np.testing.assert_allclose(depth.values, maps.reshape(2, 3, 2, 2, 4).mean((2, 4)), rtol=1e-6)
    assert depth.report == {"backend": "recorded", "coverage": 1.0}


def test_pixels_without_a_reading_do_not_enter_the_average():
    maps = np.full((1, 4, 4), 2.0, np.float32)
    maps[0, 0, 0] = 0
    maps[0, 1, 1] = np.nan
    maps[0, 2:, 2:] = [[0, 0], [0, 2.0]]
    maps[0, 0, 3] = -1
    depth = recorded_depth(_episode(maps, 1), size=(2, 2))
    # Upper left has two readings of four, lower right one: less than half.
    np.testing.assert_array_equal(depth.values[0], [[2, 2], [2, 0]])
    assert depth.report["coverage"] == 0.75


def test_an_edge_stays_on_the_surface_that_covers_more():
    near, far = 0.5, 1.5
    row = np.full((4, 4), far, np.float32)
    row[:, :1] = near
    row[:, 2:] = near
    row[0, 2] = far
    out = average_readings(row, (1, 2))
    assert out[0, 1] == pytest.approx(near)
    assert out[0, 0] in (pytest.approx(near), pytest.approx(far))  # half and half: one of the two, not 1.0


def test_a_slope_is_averaged_as_one_surface():
    slope = np.linspace(1.0, 1.4, 64, dtype=np.float32)[None].repeat(8, 0)
    np.testing.assert_allclose(average_readings(slope, (2, 16)), slope.reshape(2, 4, 16, 4).mean((1, 3)), rtol=1e-6)


def test_a_map_of_packet_size_or_smaller_keeps_its_readings():
    maps = np.random.default_rng(0).uniform(1, 1.02, (5, 7)).astype(np.float32)
    np.testing.assert_array_equal(average_readings(maps, (5, 7)), maps)
    larger = average_readings(maps, (10, 21))
    assert larger.shape == (10, 21)
    np.testing.assert_allclose(
        larger[:, 1::3].reshape(5, 2, 7).mean(1)[1:-1], maps[1:-1] * 0.75 + _beside(maps), rtol=2e-3
    )


def _beside(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    return 0.125 * (maps[:-2] + maps[2:])


def test_depth_that_was_not_recorded_is_missing_data():
    with pytest.raises(MissingDataError, match=r"image_0.*depth\.backend"):
        recorded_depth(_episode(None), size=(3, 4))


@pytest.mark.parametrize("n_maps", [1, 3])
def test_as_many_maps_as_frames_are_wanted(n_maps: int):
    with pytest.raises(LengthMismatchError, match=f"2 frames but {n_maps} recorded"):
        recorded_depth(_episode(np.ones((n_maps, 6, 8), np.float32)), size=(3, 4))


def test_a_depth_map_has_two_dimensions():
    with pytest.raises(ShapeError, match=r"\(H, W\)"):
        average_readings(np.ones((2, 3, 1)), (2, 3))


@pytest.mark.parametrize(("n_in", "n_out"), [(480, 224), (640, 224), (7, 3), (3, 7), (5, 5), (1, 4), (4, 1), (90, 224)])
def test_an_axis_is_resized_as_colour_frames_are(n_in: int, n_out: int):
    indices, _ = axis_taps(n_in, n_out)
    assert indices.min() >= 0
    assert indices.max() < n_in
    signal = np.random.default_rng(0).uniform(0, 1, (n_in, 3)).astype(np.float32)
    np.testing.assert_allclose(axis_matrix(n_in, n_out) @ signal, resize_area(signal, (n_out, 3)), atol=1e-4)


def test_a_cut_is_where_the_scene_changes():
    first, second = synthetic_clip(10, 48, 64), synthetic_clip(8, 48, 64, seed=4)[:, ::-1, :, [2, 0, 1]]
    cuts = scene_cuts(np.concatenate([first, second, first]))
    assert cuts.starts == (0, 10, 18)
    assert cuts.scenes == [(0, 10), (10, 18), (18, 28)]


def test_motion_and_light_are_no_cut():
    pixels = synthetic_clip(40, 48, 64)
    assert scene_cuts(pixels).starts == (0,)
    pixels[20:] = pixels[20:] // 2  # the light goes
    assert scene_cuts(pixels).starts == (0,)


def test_black_frames_inside_a_scene_do_not_cut_it():
    pixels = synthetic_clip(20, 48, 64)
    pixels[[7, 8]] = 0
    cuts = scene_cuts(pixels)
    assert cuts.starts == (0,)
    assert cuts.blank == (7, 8)


def test_black_frames_before_the_first_picture_are_apart():
    pixels = synthetic_clip(20, 48, 64)
    pixels[:3] = 0
    assert scene_cuts(pixels).starts == (0, 3)


@pytest.mark.parametrize("n_frames", [1, 2])
def test_short_and_blank_clips_have_one_scene(n_frames: int):
    assert scene_cuts(np.zeros((n_frames, 9, 9, 3), np.uint8)).starts == (0,)
    assert scene_cuts(synthetic_clip(n_frames, 9, 9)).starts == (0,)


@pytest.mark.parametrize("name", DEPTH_ESTIMATORS)
def test_listing_estimators_imports_no_model(name: str):
    assert "import" in inspect.getsource(DEPTH_ESTIMATORS[name])


@pytest.mark.parametrize("name", DEPTH_ESTIMATORS)
def test_every_estimator_keeps_the_contract(name: str, settings: dict[str, dict[str, object]]):
    estimator = DEPTH_ESTIMATORS[name](**settings[name])
    depth = estimator.estimate(synthetic_clip(3, 24, 32), size=(12, 10))
    assert depth.kind in CONVENTIONS
    assert depth.values.shape == (3, 12, 10)
    assert depth.values.dtype == np.float32
    assert np.isfinite(depth.values).all()
    assert json.loads(json.dumps(depth.report)) == depth.report
    assert estimator.precision == "fp32"
    assert estimator.device.type == "cpu"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, object]]:
    """What builds each estimator on this machine; the network is a tiny one."""
    tiny = Shape(width=32, depth=4, heads=2, taps=(0, 1, 2, 3), levels=(16, 16, 64, 64), features=64)
    monkeypatch.setitem(SHAPES, "vits", tiny)
    weights = tmp_path / "video_depth_anything_vits.pth"
    torch.save(seed_model(VideoDepthNetwork("vits")).state_dict(), weights)
    return {"nano": {}, "video-depth-anything": {"weights": weights, "input_size": 28, "device": "cpu"}}


def test_each_kind_states_its_convention():
    assert "larger is nearer" in CONVENTIONS["relative"]["description"]
    assert CONVENTIONS["metric"]["units"] == "m"
