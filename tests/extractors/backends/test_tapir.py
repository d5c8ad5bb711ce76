"""Clips through TAPIR: published numbers in the product's pixels, coordinates, contract, bad input."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.backends import tapir_features, tapir_network
from extractors.backends.network_tracker import on_device
from extractors.backends.tapir import Pyramid, Tapir, load_network, resize
from extractors.backends.tapir_network import TapirNetwork
from extractors.build import TRACKERS
from extractors.errors import ConfigError, DeviceMemoryError, MissingDataError, ShapeError, WeightsError
from extractors.track_queries import grid_queries
from extractors.track_windows import WindowedTracker
from tests.extractors import test_tracks as contract
from tests.parity import FIXTURES, seed_model, synthetic_clip

# Above what two fp32 runs of the published model differ by, below the smallest real mistake tried (parity kit).
TRACKS_PX = 4e-4
SCORES = 1e-4

# Other chunks round otherwise; a wrong frame or point moves tracks by 0.01 px and more.
ROUNDING_PX = 1e-3


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "bootstapir_checkpoint_v2.pt"
    torch.save(seed_model(TapirNetwork()).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All parts of the network, narrower; the adapter does not see the width."""
    path = tmp_path_factory.mktemp("weights") / "small.pt"
    with _narrow():
        torch.save(seed_model(TapirNetwork()).state_dict(), path)
    return path


@pytest.fixture
def tiny(small_weights: Path) -> Iterator[Callable[..., Tapir]]:
    with _narrow():
        yield partial(Tapir, weights=small_weights, device="cpu", iterations=2)


@contextlib.contextmanager
def _narrow() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_STEM": 4, "FINE": 8, "COARSE": 16, "_EXTRA": 1}.items():
            patch.setattr(tapir_features, name, value)
        for name, value in {"FINE": 8, "COARSE": 16, "_WIDTH": 32, "_BLOCKS": 2, "_TOKEN": 4 + 24 + 147}.items():
            patch.setattr(tapir_network, name, value)
        yield


# The published model


def test_a_clip_is_tracked_as_published(weights: Path):
    expected = dict(np.load(FIXTURES / "tapir" / "stages_8x64x64.npz"))
    whole = np.flatnonzero(expected["queries"][:, 0] % 1 == 0)  # one is posed between two frames
    queries = expected["queries"][whole][:, [0, 2, 1]] - np.array([0, 0.5, 0.5], np.float32)  # raster to pixel centres
    tracks = Tapir(weights=weights, device="cpu").track(synthetic_clip(8, 64, 64), queries)
    other = np.arange(8)[:, None] != queries[:, 0]
    wanted = expected["tracks"][whole].transpose(1, 0, 2) - 0.5
    np.testing.assert_allclose(tracks.xy[other], wanted[other], rtol=0, atol=TRACKS_PX)
    np.testing.assert_array_equal(tracks.xy[~other], np.broadcast_to(queries[:, 1:], tracks.xy.shape)[~other])
    score = (tracks.visibility_score * tracks.confidence)[other]
    np.testing.assert_allclose(score, expected["visible_score"][whole].T[other], rtol=0, atol=SCORES)
    assert np.array_equal(tracks.visibility[other], expected["visible"][whole].T[other])


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
def test_it_keeps_the_contract(tiny: Callable[..., Tapir], check: Callable[[Tapir], None]):
    check(tiny())


@pytest.mark.parametrize("query", [[np.nan, 3, 3], [0, np.nan, 3], [0, 3, np.inf], [3, 3, 3], [0, 64, 3]])
def test_a_query_outside_the_clip_is_refused(tiny: Callable[..., Tapir], query: list[float]):
    contract.test_a_query_outside_the_clip_is_refused(tiny(), query)


def test_it_is_listed_with_its_settings(tiny: Callable[..., Tapir], small_weights: Path):
    tracker = TRACKERS["tapir"](weights=small_weights, precision="fp32", device="cpu", causal=True)
    assert isinstance(tracker, Tapir)
    assert (tracker.precision, tracker.device.type) == ("fp32", "cpu")


# Coordinates


def test_pixel_centres_become_halves_and_come_back(tiny: Callable[..., Tapir], monkeypatch: pytest.MonkeyPatch):
    clip = tiny().prepare(synthetic_clip(2, 30, 90))
    posed: list[NDArray[np.float32]] = []

    def stays(points: NDArray[np.float32], _chunk: int) -> NDArray[np.float32]:
        posed.append(points)
        return np.repeat(np.concatenate([points[:, 1:], np.ones_like(points[:, 1:])], axis=1)[None], 2, axis=0)

    monkeypatch.setattr(clip, "_run", stays)
    queries = np.array([[0, -0.5, -0.5], [0, 0, 0], [0, 89, 29], [0, 89.5, 29.5], [0, 44.5, 14.5]], np.float32)
    tracks = clip.track(queries)
    half = [128 / 90, 128 / 30]
    wanted = [[0, 0], half, [256 - half[0], 256 - half[1]], [256, 256], [128, 128]]
    np.testing.assert_allclose(posed[0][:, 1:], wanted, atol=1e-4)
    np.testing.assert_allclose(tracks.xy[1], queries[:, 1:], atol=1e-4)


@pytest.mark.parametrize("size", [(512, 256), (256, 512), (600, 700), (40, 300), (256, 256)])
def test_frames_are_resized_edge_on_edge(size: tuple[int, int]):
    height, width = size
    y, x = np.mgrid[:height, :width]
    ramps = np.stack([x * 255 / width, y * 255 / height, 0 * x], axis=-1).round().astype(np.uint8)
    small = resize(on_device(ramps, torch.device("cpu")), (256, 256))[0]
    centre = torch.arange(256) + 0.5  # a ramp's value at a pixel's centre
    inner = slice(4, 252)
    half_pixel = torch.tensor([127.5 / width, 127.5 / height])
    np.testing.assert_allclose(small[0, 128, inner], (centre * 255 / 256 - half_pixel[0])[inner], rtol=0, atol=1.0)
    np.testing.assert_allclose(small[1, inner, 128], (centre * 255 / 256 - half_pixel[1])[inner], rtol=0, atol=1.0)


def test_fine_stripes_do_not_alias():
    stripes = np.zeros((64, 1280, 3), np.uint8)
    stripes[:, ::2] = 200
    small = resize(on_device(stripes, torch.device("cpu")), (256, 256))
    np.testing.assert_allclose(small, 100, rtol=0, atol=10)  # aliased: 0 or 200


def test_no_frame_is_encoded_twice(tiny: Callable[..., Tapir], monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    encode = TapirNetwork.encode
    monkeypatch.setattr(
        TapirNetwork, "encode", lambda net, images, size: (seen.append(len(images)), encode(net, images, size))[1]
    )
    clip = tiny(batch_frames=3).prepare(synthetic_clip(7, 48, 64))
    clip.track(np.array([[0, 3, 3], [4, 20, 20]], np.float32))
    clip.track(np.array([[6, 3, 3]], np.float32))
    assert seen == [3, 3, 1]


def test_a_larger_network_size_is_refined_on_more_levels(tiny: Callable[..., Tapir]):
    pixels, queries = synthetic_clip(2, 48, 64), grid_queries((48, 64), side=2)
    tracker = tiny(network_size=(512, 512))
    assert tracker.resolutions == [(256, 256), (512, 512)]
    large, small = tracker.track(pixels, queries), tiny().track(pixels, queries)
    assert large.xy.shape == small.xy.shape
    assert np.abs(large.xy[1] - small.xy[1]).max() > 0.01


def test_visible_means_the_product_of_the_scores_above_the_threshold(tiny: Callable[..., Tapir]):
    pixels, queries = synthetic_clip(4, 48, 64), grid_queries((48, 64), side=5)
    scores = tiny().track(pixels, queries)
    threshold = float(np.median((scores.visibility_score * scores.confidence)[1:]))
    for rule in ("both", "visibility"):
        tracks = tiny(threshold=threshold, visible_by=rule).track(pixels, queries)
        assert np.array_equal(tracks.visibility_score, scores.visibility_score)
        assert np.array_equal(tracks.confidence, scores.confidence)
        score = scores.visibility_score * (scores.confidence if rule == "both" else 1)
        assert np.array_equal(tracks.visibility, score > threshold)


def test_queries_do_not_influence_each_other(tiny: Callable[..., Tapir]):
    clip = tiny().prepare(synthetic_clip(5, 48, 64))
    queries = np.array([[0, 3, 3], [4, 20, 20], [2, 50.5, 40.25]], np.float32)
    together = clip.track(queries)
    for number in range(3):
        alone = clip.track(queries[number : number + 1])
        np.testing.assert_allclose(alone.xy[:, 0], together.xy[:, number], rtol=0, atol=ROUNDING_PX)


# Bad input


@pytest.mark.parametrize("shape", [(1, 48, 64), (2, 48, 64), (3, 48, 4), (3, 4, 48), (2, 1, 1), (2, 333, 17)])
def test_short_narrow_and_odd_clips_give_finite_tracks(tiny: Callable[..., Tapir], shape: tuple[int, int, int]):
    height, width = shape[1:]
    corners = [[shape[0] - 1, x, y] for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)]
    queries = np.concatenate([grid_queries((height, width), side=3, frame=shape[0] - 1), corners]).astype(np.float32)
    tracks = tiny().track(synthetic_clip(*shape), queries)
    assert tracks.xy.shape == (shape[0], 13, 2)
    assert np.isfinite(tracks.xy).all()
    np.testing.assert_array_equal(tracks.xy[-1], queries[:, 1:])


def test_no_queries_are_no_tracks(tiny: Callable[..., Tapir]):
    tracks = tiny().track(synthetic_clip(3, 48, 64), np.zeros((0, 3), np.float32))
    assert tracks.xy.shape == (3, 0, 2)
    assert tracks.visibility.shape == tracks.confidence.shape == (3, 0)


def test_a_black_clip_gives_finite_tracks(tiny: Callable[..., Tapir]):
    tracks = tiny().track(np.zeros((3, 48, 64, 3), np.uint8), grid_queries((48, 64), side=3))
    assert np.isfinite(tracks.xy).all()
    assert np.isfinite(tracks.visibility_score).all()


class _Promises:
    """Says `promised` frames, decodes `decoded`."""

    def __init__(self, promised: int, decoded: int) -> None:
        self.shape, self._decoded = (promised, 48, 64, 3), decoded

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return iter(synthetic_clip(self._decoded, 48, 64))


@pytest.mark.parametrize(("decoded", "came"), [(3, "3"), (6, "more")])
def test_another_number_of_frames_is_missing_data(tiny: Callable[..., Tapir], decoded: int, came: str):
    with pytest.raises(MissingDataError, match=f"wanted 5 frames, decoding gave {came}"):
        tiny(batch_frames=2).prepare(_Promises(5, decoded))


def test_frames_of_another_type_are_refused(tiny: Callable[..., Tapir]):
    with pytest.raises(ShapeError, match="uint8"):
        tiny().prepare(np.zeros((2, 48, 64, 3), np.float32))


# Memory and length


def test_thousands_of_queries_are_tracked_in_chunks(tiny: Callable[..., Tapir], monkeypatch: pytest.MonkeyPatch):
    pixels = synthetic_clip(2, 48, 64)
    queries = grid_queries((48, 64), side=45)
    largest: list[int] = []
    guess = TapirNetwork.guess
    monkeypatch.setattr(
        TapirNetwork,
        "guess",
        lambda net, maps, some, **how: (largest.append(len(some)), guess(net, maps, some, **how))[1],
    )
    tracks = tiny(chunk_tokens=1000).track(pixels, queries)
    assert max(largest) == 500
    assert sum(largest) == tracks.xy.shape[1] == 2025
    some = tiny().track(pixels, queries[1234:1240])
    np.testing.assert_allclose(tracks.xy[:, 1234:1240], some.xy, rtol=0, atol=ROUNDING_PX)


def test_a_chunk_that_does_not_fit_is_halved(tiny: Callable[..., Tapir], monkeypatch: pytest.MonkeyPatch):
    pixels, queries = synthetic_clip(6, 48, 64), grid_queries((48, 64), side=3)
    expected = tiny().track(pixels, queries)
    _limit(monkeypatch, frames=2, points=2)
    tracks = tiny(batch_frames=5, chunk_tokens=200).track(pixels, queries)
    np.testing.assert_allclose(tracks.xy, expected.xy, rtol=0, atol=ROUNDING_PX)


@pytest.mark.parametrize("limit", [{"frames": 0}, {"points": 0}])
def test_what_does_not_fit_at_all_is_an_error_of_that_episode(
    tiny: Callable[..., Tapir], monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
):
    _limit(monkeypatch, **limit)
    with pytest.raises(DeviceMemoryError, match=r"tracks\.window_frames"):
        tiny().track(synthetic_clip(3, 48, 64), np.zeros((1, 3), np.float32))


def test_features_that_do_not_fit_are_an_error_of_that_episode(
    tiny: Callable[..., Tapir], monkeypatch: pytest.MonkeyPatch
):
    def full(*_args: object, **_settings: object) -> Pyramid:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(tapir_features.FeatureMaps, "empty", full)
    with pytest.raises(DeviceMemoryError, match=r"features of 3 frames \(3\.4 MB a frame"):
        tiny().prepare(synthetic_clip(3, 48, 64))


def _limit(monkeypatch: pytest.MonkeyPatch, *, frames: int = 99, points: int = 10**6) -> None:
    """A device on which larger batches and chunks than these run out of memory."""
    encode, guess = TapirNetwork.encode, TapirNetwork.guess

    def limited_encode(network, images, resolution):
        if len(images) > frames:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(network, images, resolution)

    def limited_guess(network, maps, queries, **settings):
        if len(queries) > points:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return guess(network, maps, queries, **settings)

    monkeypatch.setattr(TapirNetwork, "encode", limited_encode)
    monkeypatch.setattr(TapirNetwork, "guess", limited_guess)


def test_long_clips_go_through_in_windows(tiny: Callable[..., Tapir]):
    pixels = synthetic_clip(30, 48, 64)
    queries = np.array([[0, 10, 10], [25, 30, 30]], np.float32)
    tracks = WindowedTracker(tiny(threshold=0.0), length=16).track(pixels, queries)
    assert tracks.xy.shape == (30, 2, 2)
    np.testing.assert_array_equal(tracks.xy[[0, 25], [0, 1]], queries[:, 1:])


# Weights and settings


@pytest.mark.parametrize(
    ("causal", "file"), [(False, "bootstapir_checkpoint_v2.pt"), (True, "causal_bootstapir_checkpoint.pt")]
)
def test_missing_weights_say_where_to_get_them(tmp_path: Path, causal: bool, file: str):
    with pytest.raises(WeightsError) as caught:
        Tapir(weights=tmp_path / "weights.pt", device="cpu", causal=causal)
    for part in (str(tmp_path), f"get {file}", "Apache-2.0", "models fetch", "tracks.backend=lucas-kanade"):
        assert part in str(caught.value)


def test_truncated_weights_are_refused(small_weights: Path, tmp_path: Path):
    data = small_weights.read_bytes()
    for length in (0, 100, len(data) // 2, len(data) - 10):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"may be cut off|an empty file"):
            load_network(cut)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("torch_pips_mixer.linear.bias"), "torch_pips_mixer.linear.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not expected"),
        (lambda state: state.update({"torch_pips_mixer.linear.bias": torch.zeros(7)}), r"is \(7,\), not \(32,\)"),
        (lambda state: state["torch_pips_mixer.linear.bias"].fill_(float("nan")), "linear.bias is not finite"),
        (lambda state: state.clear(), "not bootstapir_checkpoint_v2.pt"),
    ],
)
def test_weights_load_strictly(tiny: Callable[..., Tapir], small_weights: Path, tmp_path: Path, change, problem: str):
    state = torch.load(small_weights, weights_only=True)
    change(state)
    path = tmp_path / "other.pt"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=problem):
        tiny(weights=path)


def test_a_file_that_is_no_checkpoint_is_refused_unopened(tmp_path: Path):
    path = tmp_path / "weights.pt"
    torch.save(["not", "a", "dict"], path)
    with pytest.raises(WeightsError, match="no plain dict of tensors"):
        load_network(path)
    torch.save({"resnet_torch.initial_conv.weight": print}, path)  # a pickle that names a function
    with pytest.raises(WeightsError, match="asks for more than tensors"):
        load_network(path)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"precision": "int8"}, "no precision 'int8'"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"visible_by": "luck"}, "no visibility rule 'luck'"),
        ({"network_size": (260, 256)}, "multiples of 8"),
        ({"network_size": (128, 128)}, "256 at least"),
        ({"iterations": 0}, "iterations >= 1"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"threshold": 1.5}, r"threshold in \[0, 1\)"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(tiny: Callable[..., Tapir], settings: dict[str, object], problem: str):
    with pytest.raises(ConfigError, match=problem):
        tiny(**settings)


# GPU


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_gives_the_tracks_of_the_cpu(weights: Path, precision: str):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels, queries = synthetic_clip(8, 96, 128), grid_queries((96, 128), side=5, frame=3)
    exact = Tapir(weights=weights, device="cpu").track(pixels, queries)
    fast = Tapir(weights=weights, device="cuda", precision=precision).track(pixels, queries)
    error = np.linalg.norm(fast.xy - exact.xy, axis=-1)
    if precision == "fp32":
        assert error.max() < 5e-3
    assert np.mean(error < 0.5) > 0.9
