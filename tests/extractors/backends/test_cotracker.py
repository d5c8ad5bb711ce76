"""Clips through CoTracker3: published predictor's numbers, coordinates, both directions of time, bad input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.backends.cotracker import CoTracker3, CoTrackerClip, CoTrackerSettings, grid, load_network, resize
from extractors.backends.cotracker_network import CoTrackerNetwork, FeatureMaps
from extractors.backends.network_tracker import on_device
from extractors.build import TRACKERS
from extractors.errors import ConfigError, DeviceMemoryError, MissingDataError, ShapeError, WeightsError
from extractors.track_queries import grid_queries
from tests.extractors import test_tracks as contract
from tests.parity import FIXTURES, seed_model, synthetic_clip

KIT = FIXTURES / "cotracker3"

# Above what two fp32 runs of the published model differ by, below the smallest real mistake tried (parity kit).
TRACKS_PX = 2e-4
SCORES = 3e-5
ENCODER = 2e-4

# Other chunks round otherwise; a wrong frame or point moves tracks by 0.01 px and more.
ROUNDING_PX = 1e-4


def _tracker(weights: Path, **settings: Any) -> CoTracker3:
    return CoTracker3(weights, CoTrackerSettings(**settings))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "scaled_offline.pth"
    torch.save(seed_model(CoTrackerNetwork()).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def published(weights: Path) -> Callable[..., CoTracker3]:
    """The published predictor: its rule of visibility, no support unless asked for."""
    return partial(_tracker, weights=weights, device="cpu", threshold=0.9, visible_by="visibility", support_grid=0)


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All parts of the network, narrower; the adapter does not see the width."""
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    with _narrow():
        torch.save(seed_model(CoTrackerNetwork()).state_dict(), path)
    return path


@pytest.fixture
def tiny(small_weights: Path) -> Iterator[Callable[..., CoTracker3]]:
    with _narrow():
        yield partial(_tracker, weights=small_weights, device="cpu", network_size=(48, 64), iterations=2)


@contextlib.contextmanager
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extractors.backends.cotracker_network._WIDTH", 48)
        patch.setattr("extractors.backends.cotracker_network._VIRTUAL", 5)
        yield


# The published predictor

SMALL = (96, 128)


def in_frame_pixels(points: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Points of the small network's frames in pixels of the clip."""
    return (points * [1, (width - 1) / (SMALL[1] - 1), (height - 1) / (SMALL[0] - 1)]).astype(np.float32)


def check_case(clip: CoTrackerClip, queries: NDArray[np.float32], expected: dict[str, NDArray], case: str) -> None:
    tracks = clip.track(queries)
    np.testing.assert_allclose(tracks.xy, expected[f"{case}_tracks"], rtol=0, atol=TRACKS_PX)
    assert np.array_equal(tracks.visibility, expected[f"{case}_visible"])


@pytest.fixture(scope="module")
def expected() -> dict[str, NDArray]:
    return dict(np.load(KIT / "predictor_24x64x80.npz"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("grid1", {}),
        ("grid5", {}),
        ("grid5_q6", {"backward": False}),
        ("grid5_q6_back", {}),
        ("queries", {"support_grid": 6, "backward": False}),
        ("queries_back", {"support_grid": 6}),
        ("grid8_mask", {"support_grid": 6}),
    ],
)
def test_small_clips_are_tracked_as_published(
    published: Callable[..., CoTracker3], expected: dict[str, NDArray], case: str, settings: dict[str, object]
):
    if case.startswith("queries"):
        queries = expected["queries"]
    elif case == "grid8_mask":
        queries = in_frame_pixels(_on_mask(grid(8, SMALL), expected["segm_mask"]), 64, 80)
    else:
        side, frame = int(case[4]), 6 if "q6" in case else 0
        queries = in_frame_pixels(grid(side, SMALL, frame=frame), 64, 80)
    clip = published(network_size=SMALL, **settings).prepare(synthetic_clip(24, 64, 80))
    check_case(clip, queries, expected, case)


def _on_mask(points: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Points whose rounded position lies on the mask, resized by nearest neighbour."""
    large = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), SMALL)[0, 0].numpy()
    x, y = np.rint(points[:, 1:]).astype(int).T
    return points[large[y, x] != 0]


@pytest.mark.slow
def test_scores_are_the_published_ones(published: Callable[..., CoTracker3], expected: dict[str, NDArray]):
    clip = published(network_size=SMALL).prepare(synthetic_clip(24, 64, 80))
    points = expected["queries"] * np.array([1, 127 / 79, 95 / 63], np.float32)
    found = clip.run(np.concatenate([points, grid(6, SMALL)]))
    np.testing.assert_allclose(found[..., 2], expected["queries_vis_score"], rtol=0, atol=SCORES)
    np.testing.assert_allclose(found[..., 3], expected["queries_conf_score"], rtol=0, atol=SCORES)


def test_frames_are_resized_and_encoded_as_published(published: Callable[..., CoTracker3]):
    expected = np.load(KIT / "predictor_24x128x160.npz")
    pixels = synthetic_clip(6, 128, 160)
    image = resize(on_device(pixels[5], torch.device("cpu")), (384, 512))[0]
    np.testing.assert_allclose(image[:, ::16, ::16], expected["resized_f5_slice"], rtol=0, atol=1e-3)
    network = published().network
    with torch.inference_mode():
        features = network.fnet(2 * resize(on_device(pixels[0], torch.device("cpu")), (384, 512)) / 255 - 1)[0]
    np.testing.assert_allclose(features[::16, ::4, ::4], expected["fnet_f0_slice"], rtol=0, atol=ENCODER)


@pytest.mark.slow
def test_full_size_queries_are_tracked_as_published(published: Callable[..., CoTracker3]):
    expected = dict(np.load(KIT / "predictor_24x128x160.npz"))
    tracker = published(support_grid=6)
    clip = tracker.prepare(synthetic_clip(24, 128, 160))
    check_case(clip, expected["queries"], expected, "queries_back")
    points = expected["queries"] * np.array([1, 511 / 159, 383 / 127], np.float32)
    back = clip.run(np.concatenate([points, grid(6, (384, 512))]), backward=True)
    as_run = expected["queries_back_vis_score_bwd_flipped"]  # last frame first
    np.testing.assert_allclose(back[::-1, :, 2], as_run, rtol=0, atol=SCORES)
    tracker.settings = replace(tracker.settings, backward=False)
    check_case(clip, expected["queries"], expected, "queries")


@pytest.mark.slow
def test_400_points_are_tracked_as_published(published: Callable[..., CoTracker3]):
    expected = dict(np.load(KIT / "predictor_24x128x160.npz"))
    points = grid(20, (384, 512))
    found = published().prepare(synthetic_clip(24, 128, 160)).run(points)
    xy = found[..., :2] * np.array([159 / 511, 127 / 383], np.float32)
    # The predictor puts the queries themselves in their own frame.
    np.testing.assert_allclose(xy[1:], expected["grid20_tracks"][1:], rtol=0, atol=TRACKS_PX)
    np.testing.assert_allclose(found[..., 2], expected["grid20_vis_score"], rtol=0, atol=SCORES)
    np.testing.assert_allclose(found[..., 3], expected["grid20_conf_score"], rtol=0, atol=SCORES)
    visible = found[..., 2] > 0.9
    visible[0] = True  # the frame of the queries
    # One score lies within 1e-6 of the threshold.
    assert np.mean(visible == expected["grid20_visible"]) >= 0.999


# The contract of all trackers; what needs a trained network is left out


@pytest.mark.parametrize(
    "check",
    [
        contract.test_tracks_have_the_shapes_and_types_of_the_contract,
        contract.test_a_query_stays_where_it_was_posed_and_is_seen_there,
        contract.test_lazy_frames_give_what_an_array_gives_in_one_pass,
        contract.test_a_prepared_clip_serves_several_query_sets,
        contract.test_queries_and_pixels_of_another_shape_are_refused,
    ],
)
def test_it_keeps_the_contract(tiny: Callable[..., CoTracker3], check: Callable[[CoTracker3], None]):
    check(tiny())


@pytest.mark.parametrize("query", [[np.nan, 3, 3], [0, np.nan, 3], [0, 3, np.inf], [3, 3, 3], [0, 64, 3]])
def test_a_query_outside_the_clip_is_refused(tiny: Callable[..., CoTracker3], query: list[float]):
    contract.test_a_query_outside_the_clip_is_refused(tiny(), query)


def test_it_is_listed_with_its_settings(tiny: Callable[..., CoTracker3], small_weights: Path):
    tracker = TRACKERS["cotracker3"](weights=small_weights, precision="fp32", device="cpu")
    assert isinstance(tracker, CoTracker3)
    assert (tracker.precision, tracker.device.type) == ("fp32", "cpu")


# Coordinates and time


def test_corner_pixels_keep_their_centres(tiny: Callable[..., CoTracker3], monkeypatch: pytest.MonkeyPatch):
    clip = tiny(support_grid=0).prepare(synthetic_clip(2, 30, 90))
    posed: list[NDArray[np.float32]] = []

    def stays(points: NDArray[np.float32], *, backward: bool = False) -> NDArray[np.float32]:
        posed.append(points)
        return np.repeat(np.concatenate([points[:, 1:], np.ones_like(points[:, 1:])], axis=1)[None], 2, axis=0)

    monkeypatch.setattr(clip, "run", stays)
    queries = np.array([[0, 0, 0], [0, 89, 29], [0, 44.5, 14.5]], np.float32)
    tracks = clip.track(queries)
    np.testing.assert_allclose(posed[0][:, 1:], [[0, 0], [63, 47], [31.5, 23.5]], atol=1e-4)
    np.testing.assert_allclose(tracks.xy[1], queries[:, 1:], atol=1e-4)


def test_frames_before_a_query_come_from_the_run_back(tiny: Callable[..., CoTracker3]):
    pixels = synthetic_clip(6, 48, 64)
    queries = np.array([[0, 10, 10], [3, 30, 20], [5, 50.5, 40.25]], np.float32)
    clip, forward = tiny(support_grid=0).prepare(pixels), tiny(support_grid=0, backward=False).prepare(pixels)
    both, ahead = clip.track(queries), forward.track(queries)
    flipped = queries * [-1, 1, 1] + np.array([5, 0, 0])
    back = tiny(support_grid=0, backward=False).prepare(pixels[::-1]).track(flipped.astype(np.float32))
    for number, frame in enumerate(queries[:, 0].astype(int)):
        np.testing.assert_allclose(both.xy[frame:, number], ahead.xy[frame:, number], rtol=0, atol=ROUNDING_PX)
        np.testing.assert_allclose(both.xy[:frame, number], back.xy[::-1][:frame, number], rtol=0, atol=ROUNDING_PX)
        np.testing.assert_allclose(
            both.confidence[:frame, number], back.confidence[::-1][:frame, number], rtol=0, atol=SCORES
        )
    assert np.abs(both.xy - ahead.xy).max() > 0.01


def test_no_frame_is_encoded_twice(tiny: Callable[..., CoTracker3], monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    encode = CoTrackerNetwork.encode
    monkeypatch.setattr(
        CoTrackerNetwork, "encode", lambda net, images: (seen.append(len(images)), encode(net, images))[1]
    )
    clip = tiny(batch_frames=3).prepare(synthetic_clip(7, 48, 64))
    clip.track(np.array([[0, 3, 3], [4, 20, 20]], np.float32))
    clip.track(np.array([[6, 3, 3]], np.float32))
    assert seen == [3, 3, 1]


def test_visible_means_the_product_of_the_scores_above_the_threshold(tiny: Callable[..., CoTracker3]):
    pixels, queries = synthetic_clip(4, 48, 64), grid_queries((48, 64), side=5)
    scores = tiny().track(pixels, queries)
    threshold = float(np.median((scores.visibility_score * scores.confidence)[1:]))
    for rule in ("both", "visibility"):
        tracks = tiny(threshold=threshold, visible_by=rule).track(pixels, queries)
        assert np.array_equal(tracks.visibility_score, scores.visibility_score)
        assert np.array_equal(tracks.confidence, scores.confidence)
        score = scores.visibility_score * (scores.confidence if rule == "both" else 1)
        assert np.array_equal(tracks.visibility, score > threshold)
        if rule == "both":
            assert tracks.visibility[0].all()
            assert 0.4 < tracks.visibility[1:].mean() < 0.6


def test_support_points_take_part_and_are_dropped(tiny: Callable[..., CoTracker3]):
    pixels, queries = synthetic_clip(4, 48, 64), grid_queries((48, 64), side=2)
    alone, supported = (tiny(support_grid=side).track(pixels, queries) for side in (0, 6))
    assert supported.xy.shape == alone.xy.shape == (4, 4, 2)
    assert np.abs(supported.xy - alone.xy).max() > 1e-3


def test_a_grid_goes_without_support_where_that_is_for_explicit_queries(tiny: Callable[..., CoTracker3]):
    pixels, queries = synthetic_clip(4, 48, 64), grid_queries((48, 64), side=2)
    alone, published = tiny(support_grid=0).prepare(pixels), tiny(support_for="explicit").prepare(pixels)
    supported = tiny().track(pixels, queries)
    np.testing.assert_array_equal(published.track(queries, posed="grid").xy, alone.track(queries).xy)
    np.testing.assert_array_equal(published.track(queries).xy, supported.xy)


def test_the_grid_is_the_published_one():
    points = grid(20, (384, 512), frame=2)
    assert points.shape == (400, 3)
    np.testing.assert_array_equal(points[[0, 19, 399]], [[2, 8, 8], [2, 504, 8], [2, 504, 376]])
    np.testing.assert_array_equal(grid(1, (384, 512)), [[0, 256, 192]])
    assert grid(0, (384, 512)).shape == (0, 3)


# Bad input


@pytest.mark.parametrize("shape", [(1, 48, 64), (3, 48, 4), (3, 4, 48), (2, 1, 1), (2, 33, 17)])
def test_short_narrow_and_odd_clips_give_finite_tracks(tiny: Callable[..., CoTracker3], shape: tuple[int, int, int]):
    queries = grid_queries(shape[1:], side=3, frame=shape[0] - 1)
    tracks = tiny().track(synthetic_clip(*shape), queries)
    assert tracks.xy.shape == (shape[0], 9, 2)
    assert np.isfinite(tracks.xy).all()
    np.testing.assert_array_equal(tracks.xy[-1], queries[:, 1:])


def test_no_queries_are_no_tracks(tiny: Callable[..., CoTracker3]):
    tracks = tiny().track(synthetic_clip(3, 48, 64), np.zeros((0, 3), np.float32))
    assert tracks.xy.shape == (3, 0, 2)
    assert tracks.visibility.shape == tracks.confidence.shape == (3, 0)


class _Promises:
    """Says `promised` frames, decodes `decoded`."""

    def __init__(self, promised: int, decoded: int) -> None:
        self.shape, self._decoded = (promised, 48, 64, 3), decoded

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return iter(synthetic_clip(self._decoded, 48, 64))


@pytest.mark.parametrize(("decoded", "came"), [(3, "3"), (6, "more")])
def test_another_number_of_frames_is_missing_data(tiny: Callable[..., CoTracker3], decoded: int, came: str):
    with pytest.raises(MissingDataError, match=f"wanted 5 frames, decoding gave {came}"):
        tiny(batch_frames=2).prepare(_Promises(5, decoded))


def test_frames_of_another_type_are_refused(tiny: Callable[..., CoTracker3]):
    with pytest.raises(ShapeError, match="uint8"):
        tiny().prepare(np.zeros((2, 48, 64, 3), np.float32))


def test_frames_that_may_not_be_written_to_are_frames(tiny: Callable[..., CoTracker3]):
    pixels = synthetic_clip(2, 48, 64)
    pixels.flags.writeable = False
    assert tiny().track(pixels, np.zeros((1, 3), np.float32)).xy.shape == (2, 1, 2)


# Memory


def test_a_chunk_that_does_not_fit_is_halved(tiny: Callable[..., CoTracker3], monkeypatch: pytest.MonkeyPatch):
    pixels, queries = synthetic_clip(6, 48, 64), grid_queries((48, 64), side=3)
    expected = tiny().track(pixels, queries)
    tracker = tiny(batch_frames=5, chunk_tokens=200)
    _limit(monkeypatch, frames=2, tokens=60)
    tracks = tracker.track(pixels, queries)
    np.testing.assert_allclose(tracks.xy, expected.xy, rtol=0, atol=ROUNDING_PX)


@pytest.mark.parametrize("limit", [{"frames": 0}, {"tokens": 0}])
def test_what_does_not_fit_at_all_is_an_error_of_that_episode(
    tiny: Callable[..., CoTracker3], monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
):
    _limit(monkeypatch, **limit)
    with pytest.raises(DeviceMemoryError, match=r"tracks\.window_frames"):
        tiny().track(synthetic_clip(3, 48, 64), np.zeros((1, 3), np.float32))


def test_features_that_do_not_fit_are_an_error_of_that_episode(
    tiny: Callable[..., CoTracker3], monkeypatch: pytest.MonkeyPatch
):
    def full(*_args: object, **_settings: object) -> FeatureMaps:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(FeatureMaps, "empty", full)
    with pytest.raises(DeviceMemoryError, match=r"features of 3 frames \(0\.1 MB a frame"):
        tiny().prepare(synthetic_clip(3, 48, 64))


def test_other_failures_are_not_taken_for_lack_of_memory(
    tiny: Callable[..., CoTracker3], monkeypatch: pytest.MonkeyPatch
):
    def broken(*_args: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(CoTrackerNetwork, "encode", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        tiny().prepare(synthetic_clip(3, 48, 64))


def _limit(monkeypatch: pytest.MonkeyPatch, *, frames: int = 99, tokens: int = 10**6) -> None:
    """A device on which larger batches and chunks than these run out of memory."""
    encode, refine = CoTrackerNetwork.encode, CoTrackerNetwork.refine

    def limited_encode(network, images):
        if len(images) > frames:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(network, images)

    def limited_refine(network, *args, chunk, **settings):
        if chunk > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return refine(network, *args, chunk=chunk, **settings)

    monkeypatch.setattr(CoTrackerNetwork, "encode", limited_encode)
    monkeypatch.setattr(CoTrackerNetwork, "refine", limited_refine)


# Weights and settings


def test_missing_weights_say_where_to_get_them(tmp_path: Path):
    with pytest.raises(WeightsError) as caught:
        _tracker(weights=tmp_path / "scaled_offline.pth", device="cpu")
    for part in (str(tmp_path), "facebook/cotracker3", "CC-BY-NC-4.0", "tracks.backend=lucas-kanade"):
        assert part in str(caught.value)


def test_truncated_weights_are_refused(weights: Path, tmp_path: Path):
    data = weights.read_bytes()
    for length in (0, 100, len(data) // 2, len(data) - 10):
        cut = tmp_path / "scaled_offline.pth"
        cut.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"may be cut off|an empty file"):
            load_network(cut)


def test_weights_nested_under_model_are_accepted(weights: Path, tmp_path: Path):
    path = tmp_path / "trained.pth"
    state = torch.load(weights, weights_only=True)
    torch.save({"model": state}, path)
    for name, value in load_network(path).state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("corr_mlp.fc1.bias"), "corr_mlp.fc1.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not expected"),
        (lambda state: state.update({"corr_mlp.fc1.bias": torch.zeros(7)}), r"is \(7,\), not \(384,\)"),
        (lambda state: state["corr_mlp.fc1.bias"].fill_(float("nan")), "corr_mlp.fc1.bias is not finite"),
        (lambda state: state.update(time_emb=torch.zeros(1, 16, 1110)), "online variant"),
        (lambda state: state.clear(), "not scaled_offline.pth"),
    ],
)
def test_weights_load_strictly(weights: Path, tmp_path: Path, change, problem: str):
    state = torch.load(weights, weights_only=True)
    change(state)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=problem):
        load_network(path)


def test_a_file_that_is_no_checkpoint_is_refused_unopened(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save(["not", "a", "dict"], path)
    with pytest.raises(WeightsError, match="not a plain dict of tensors"):
        load_network(path)
    torch.save({"model": print}, path)  # a pickle that names a function
    with pytest.raises(WeightsError):
        load_network(path)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"precision": "int8"}, "no precision 'int8'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"visible_by": "luck"}, "no visibility rule 'luck'"),
        ({"network_size": (97, 128)}, "multiples of 4"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"support_for": "some"}, "no support for 'some'"),
        ({"threshold": 1.5}, r"threshold in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(weights: Path, settings: dict[str, object], problem: str):
    with pytest.raises(ConfigError, match=problem):
        _tracker(**{"weights": weights, "device": "cpu", **settings})


# GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_gives_the_tracks_of_the_cpu(weights: Path, precision: str):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels, queries = synthetic_clip(24, 96, 128), grid_queries((96, 128), side=5, frame=6)
    exact = _tracker(weights=weights, device="cpu", network_size=SMALL).track(pixels, queries)
    fast = _tracker(weights=weights, device="cuda", network_size=SMALL, precision=precision).track(pixels, queries)
    error = np.linalg.norm(fast.xy - exact.xy, axis=-1)
    if precision == "fp32":
        assert error.max() < 1e-3
    assert np.mean(error < 0.1) > 0.95
