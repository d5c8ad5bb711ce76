"""Clips through Video-Depth-Anything: published numbers, work done once, bad input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from extractors.backends import video_depth_anything
from extractors.backends.vda_network import SHAPES, Shape, VideoDepthNetwork
from extractors.backends.video_depth_anything import (
    VideoDepthAnything,
    load_network,
    network_size,
    prepare,
    published_file,
    resize_area,
)
from extractors.errors import ConfigError, DeviceMemoryError, MissingDataError, ShapeError, WeightsError
from tests.parity import FIXTURES, seed_model, synthetic_clip
from tests.published_depth import published_depth

KIT = FIXTURES / "video_depth_anything"

# Above what two fp32 runs of the published model differ by, below the smallest real mistake tried (parity kit).
VIDEO = 3e-4
SCALE_SHIFT = 5e-5

# Other batches round otherwise, and group norms over few pixels amplify it; a wrong frame moves values by 0.1 and more.
ROUNDING = 3e-4


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "video_depth_anything_vits.pth"
    torch.save(seed_model(VideoDepthNetwork("vits")).state_dict(), path)
    return path


TINY = Shape(width=32, depth=4, heads=2, taps=(0, 1, 2, 3), levels=(16, 16, 64, 64), features=64)
"""A network with every part of the real ones, quick enough to run whole clips: the scheme does not see its size."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads only wait for each other on maps this small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("weights") / "video_depth_anything_vits.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SHAPES, "vits", TINY)
        torch.save(seed_model(VideoDepthNetwork("vits")).state_dict(), path)
    return path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, small_weights: Path) -> Callable[..., VideoDepthAnything]:
    monkeypatch.setitem(SHAPES, "vits", TINY)
    return partial(VideoDepthAnything, "vits", weights=small_weights, input_size=28, device="cpu")


@pytest.fixture
def small(tiny: Callable[..., VideoDepthAnything]) -> VideoDepthAnything:
    return tiny()


# Published numbers


def test_sizes_are_those_of_the_published_model():
    sizes = np.load(KIT / "resize.npz")
    cases = [name for name in sizes if "@" in name]
    assert len(cases) == 8
    for name in cases:
        frame, input_size = name.split("@")
        height, width = map(int, frame.split("x"))
        assert network_size(height, width, int(input_size)) == tuple(sizes[name]), name


def test_frames_are_resized_as_published():
    expected = np.load(KIT / "resize.npz")["resized_90x120"]
    image = prepare(torch.from_numpy(synthetic_clip(1, 90, 120)), (98, 126))[0].permute(1, 2, 0)
    shown = image * torch.tensor([0.229, 0.224, 0.225]) + torch.tensor([0.485, 0.456, 0.406])
    np.testing.assert_allclose(shown, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "input_size"),
    [
        ((5, 60, 80), 56),
        ((32, 60, 80), 56),
        pytest.param((22, 60, 80), 56, marks=pytest.mark.slow),
        pytest.param((23, 60, 80), 56, marks=pytest.mark.slow),
        pytest.param((45, 48, 112), 70, marks=pytest.mark.slow),
        pytest.param((44, 80, 60), 56, marks=pytest.mark.slow),
    ],
)
def test_short_clips_give_the_published_depth(weights: Path, shape: tuple[int, int, int], input_size: int):
    n_frames, height, width = shape
    case = f"t{n_frames}_{height}x{width}_"
    expected = np.load(KIT / "video_edge_cases.npz")
    model = VideoDepthAnything("vits", weights=weights, input_size=input_size, device="cpu")
    depth = model.estimate(synthetic_clip(*shape, seed=1), size=(height, width))
    np.testing.assert_allclose(depth.values[:, ::4, ::4], expected[case + "depth"], rtol=0, atol=VIDEO)
    fitted = np.array(depth.report["scale_shift"][0]).reshape(-1, 2)
    np.testing.assert_allclose(fitted, expected[case + "scale_shift"][: len(fitted)], rtol=0, atol=SCALE_SHIFT)
    assert depth.report["windows_published"] == expected[case + "num_windows"]
    assert depth.report["encoded_per_frame"] == 1.0


@pytest.mark.slow
def test_the_stitched_70_frame_clip_gives_the_published_depth(weights: Path):
    expected = np.load(KIT / "video_70x90x120.npz")
    model = VideoDepthAnything("vits", weights=weights, input_size=98, device="cpu")
    depth = model.estimate(synthetic_clip(70, 90, 120, seed=1), size=(90, 120))
    np.testing.assert_allclose(depth.values[:, ::4, ::4], expected["depth"], rtol=0, atol=VIDEO)
    np.testing.assert_allclose(depth.report["scale_shift"][0], expected["scale_shift"], rtol=0, atol=SCALE_SHIFT)
    assert depth.report["windows"] == expected["num_windows"]


# Work


def test_every_frame_is_encoded_once(small: VideoDepthAnything, monkeypatch: pytest.MonkeyPatch):
    seen: list[int] = []
    encode = VideoDepthNetwork.frame_features
    monkeypatch.setattr(VideoDepthNetwork, "frame_features", lambda net, x: (seen.append(len(x)), encode(net, x))[1])
    report = small.estimate(synthetic_clip(38, 24, 32), size=(24, 32)).report
    assert sum(seen) == 38
    assert report["encoded_per_frame"] == 1.0
    assert report["encoded_per_frame_published"] == pytest.approx(64 / 38)


def test_it_equals_the_published_scheme_done_plainly(small: VideoDepthAnything, small_weights: Path):
    pixels = synthetic_clip(50, 24, 32)
    plain = published_depth(load_network(small_weights, "vits"), pixels, 28)
    np.testing.assert_allclose(small.estimate(pixels, size=(24, 32)).values, plain, rtol=0, atol=VIDEO)


def test_clips_that_share_batches_keep_their_numbers(tiny: Callable[..., VideoDepthAnything]):
    clips = [synthetic_clip(5, 24, 32), synthetic_clip(40, 24, 32, seed=1), synthetic_clip(7, 32, 24, seed=2)]
    together, small = tiny(batch_windows=3, batch_frames=7), tiny()
    for clip, depth in zip(clips, together.estimate_many(clips, size=(20, 20)), strict=True):
        alone = small.estimate(clip, size=(20, 20))
        np.testing.assert_allclose(depth.values, alone.values, rtol=0, atol=ROUNDING)
        assert depth.report["windows"] == alone.report["windows"]


def test_padding_is_what_slots_behind_the_end_cost(tiny: Callable[..., VideoDepthAnything]):
    # 38 frames: the second window sees frames 22 to 53, of which 16 are not there.
    repeated = 16 * video_depth_anything.REPEATED_SLOT_COST
    assert tiny().padding([38, 38]) == pytest.approx(repeated / (38 + repeated))
    assert tiny().padding([1]) == pytest.approx(31 * 0.02 / (1 + 31 * 0.02))


def test_features_of_a_long_clip_are_dropped(small: VideoDepthAnything, monkeypatch: pytest.MonkeyPatch):
    held: list[int] = []
    forget = video_depth_anything._Scene.forget
    monkeypatch.setattr(
        video_depth_anything._Scene,
        "forget",
        lambda scene, window: (
            held.append(len(scene.features)),
            forget(scene, window),
            held.append(len(scene.features)),
        ),
    )
    small.estimate(synthetic_clip(100, 16, 16), size=(16, 16))
    assert max(held) == 32
    assert max(held[1::2]) <= 10
    assert held[-1] == 0


def test_the_packet_map_is_the_area_average_of_the_source_map(small: VideoDepthAnything):
    pixels = synthetic_clip(3, 40, 60)
    whole = small.estimate(pixels, size=(40, 60)).values
    np.testing.assert_allclose(
        small.estimate(pixels, size=(20, 20)).values, whole.reshape(3, 20, 2, 20, 3).mean((2, 4)), rtol=0, atol=1e-5
    )


def test_axes_are_resized_each_by_its_own_rule():
    maps = torch.arange(12.0).view(1, 2, 6)
    np.testing.assert_allclose(resize_area(maps, (4, 2))[0, :, 0], [1, 2.5, 5.5, 7])


# Scenes


def test_a_cut_starts_a_scene_of_its_own(small: VideoDepthAnything):
    first, second = synthetic_clip(12, 24, 32), synthetic_clip(9, 24, 32, seed=3)[:, ::-1, :, ::-1].copy()
    second[..., 0] = 255 - second[..., 0]
    depth = small.estimate(np.concatenate([first, second]), size=(24, 32))
    assert depth.report["cuts"] == [12]
    np.testing.assert_allclose(depth.values[:12], small.estimate(first, size=(24, 32)).values, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(depth.values[12:], small.estimate(second, size=(24, 32)).values, rtol=0, atol=ROUNDING)


# Bad input


@pytest.mark.parametrize(
    "shape", [(1, 24, 32), (2, 24, 32), (3, 5, 9), (2, 1, 1), (2, 33, 17), (2, 7, 90), (1, 1, 300)]
)
def test_short_small_portrait_and_odd_clips_give_finite_depth(small: VideoDepthAnything, shape: tuple[int, int, int]):
    depth = small.estimate(synthetic_clip(*shape), size=(16, 12))
    assert depth.values.shape == (shape[0], 16, 12)
    assert np.isfinite(depth.values).all()
    assert (depth.values >= 0).all()


def test_a_constant_image_and_black_frames_stay_finite_and_are_reported(small: VideoDepthAnything):
    grey = small.estimate(np.full((30, 24, 32, 3), 128, np.uint8), size=(24, 32))
    assert np.isfinite(grey.values).all()
    pixels = synthetic_clip(30, 24, 32)
    pixels[[10, 11]] = 0
    depth = small.estimate(pixels, size=(24, 32))
    assert np.isfinite(depth.values).all()
    assert depth.report["blank_frames"] == [10, 11]
    assert depth.report["cuts"] == []


def test_pixels_of_another_shape_are_refused(small: VideoDepthAnything):
    with pytest.raises(ShapeError, match=r"\(T, H, W, 3\)"):
        small.estimate(np.zeros((3, 24, 32), np.uint8), size=(24, 32))
    with pytest.raises(ShapeError, match="at least one frame"):
        small.estimate(np.zeros((0, 24, 32, 3), np.uint8), size=(24, 32))
    with pytest.raises(ShapeError, match="uint8"):
        small.estimate(np.zeros((1, 24, 32, 3), np.float32), size=(24, 32))


class _Short:
    """Promises five frames, decodes three."""

    shape = (5, 24, 32, 3)

    def __len__(self) -> int:
        return 5

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return iter(synthetic_clip(3, 24, 32))


def test_frames_that_do_not_come_are_missing_data(small: VideoDepthAnything):
    with pytest.raises(MissingDataError, match="wanted 5 frames, decoding gave 3"):
        small.estimate(_Short(), size=(24, 32))


# Memory


def test_a_batch_that_does_not_fit_is_halved(small: VideoDepthAnything, monkeypatch: pytest.MonkeyPatch):
    pixels = synthetic_clip(26, 24, 32)
    expected = small.estimate(pixels, size=(24, 32)).values
    _limit(monkeypatch, frames=1, decoded=2)
    np.testing.assert_allclose(small.estimate(pixels, size=(24, 32)).values, expected, rtol=0, atol=ROUNDING)


def test_windows_that_do_not_fit_together_are_run_singly(
    tiny: Callable[..., VideoDepthAnything], monkeypatch: pytest.MonkeyPatch
):
    model = tiny(batch_windows=3)
    clips = [synthetic_clip(n, 24, 32) for n in (4, 5, 6)]
    expected = model.estimate_many(clips, size=(24, 32))
    _limit(monkeypatch, windows=1)
    for got, want in zip(model.estimate_many(clips, size=(24, 32)), expected, strict=True):
        np.testing.assert_allclose(got.values, want.values, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("limit", [{"frames": 0}, {"decoded": 0}])
def test_one_frame_that_does_not_fit_is_an_error_of_that_episode(
    small: VideoDepthAnything, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
):
    _limit(monkeypatch, **limit)
    with pytest.raises(DeviceMemoryError, match=r"lower depth\.input_size"):
        small.estimate(synthetic_clip(3, 24, 32), size=(24, 32))


def test_maps_that_do_not_fit_at_source_size_are_an_error_of_that_episode(
    small: VideoDepthAnything, monkeypatch: pytest.MonkeyPatch
):
    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(video_depth_anything.Stitcher, "add", full)
    with pytest.raises(DeviceMemoryError, match="at source size"):
        small.estimate(synthetic_clip(3, 24, 32), size=(24, 32))


def test_other_failures_are_not_taken_for_lack_of_memory(small: VideoDepthAnything, monkeypatch: pytest.MonkeyPatch):
    def broken(*_args: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(VideoDepthNetwork, "frame_features", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        small.estimate(synthetic_clip(3, 24, 32), size=(24, 32))


def _limit(monkeypatch: pytest.MonkeyPatch, *, frames: int = 99, decoded: int = 99, windows: int = 99) -> None:
    """A device on which larger batches than these run out of memory."""
    encode, decode = VideoDepthNetwork.frame_features, VideoDepthNetwork.window_depth

    def frame_features(network, images):
        if len(images) > frames:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return encode(network, images)

    def window_depth(network, features, wanted, *, batch):
        if batch > decoded or len(wanted) > windows:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        return decode(network, features, wanted, batch=batch)

    monkeypatch.setattr(VideoDepthNetwork, "frame_features", frame_features)
    monkeypatch.setattr(VideoDepthNetwork, "window_depth", window_depth)


# Weights and settings


def test_missing_weights_say_where_to_get_them(tmp_path: Path):
    with pytest.raises(WeightsError) as caught:
        VideoDepthAnything("vitl", weights=tmp_path / "video_depth_anything_vitl.pth", device="cpu")
    for part in (str(tmp_path), "video_depth_anything_vitl.pth", "cuepack models list", "--profile cpu"):
        assert part in str(caught.value)


def test_truncated_weights_are_refused(weights: Path, tmp_path: Path):
    data = weights.read_bytes()
    for length in (0, 100, len(data) // 2, len(data) - 10):
        cut = tmp_path / "video_depth_anything_vits.pth"
        cut.write_bytes(data[:length])
        with pytest.raises(WeightsError, match=r"may be cut off|an empty file"):
            load_network(cut, "vits")


def test_weights_of_another_size_are_named(weights: Path):
    with pytest.raises(
        WeightsError, match=r"holds vits, wanted video_depth_anything_vitb\.pth; set depth\.model to vits"
    ):
        load_network(weights, "vitb")


def test_the_metric_variant_is_not_mixed_up_with_the_relative_one(tmp_path: Path):
    path = tmp_path / published_file("vits", metric=True)
    path.touch()
    with pytest.raises(WeightsError, match=r"metric variant.*depth\.metric to true"):
        load_network(path, "vits")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: state.pop("head.projects.0.bias"), "head.projects.0.bias is missing"),
        (lambda state: state.update(extra=torch.zeros(1)), "extra is not expected"),
        (lambda state: state.update({"head.projects.0.bias": torch.zeros(7)}), r"is \(7,\), not \(48,\)"),
        (lambda state: state["head.projects.0.bias"].fill_(float("nan")), "head.projects.0.bias is not finite"),
    ],
)
def test_weights_load_strictly(weights: Path, tmp_path: Path, change, problem: str):
    state = torch.load(weights, weights_only=True)
    change(state)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(WeightsError, match=problem):
        load_network(path, "vits")


def test_a_file_that_is_no_checkpoint_is_refused_unopened(tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save(["not", "a", "dict"], path)
    with pytest.raises(WeightsError, match="not a plain dict of tensors"):
        load_network(path, "vits")
    torch.save({"model": print}, path)  # a pickle that names a function
    with pytest.raises(WeightsError):
        load_network(path, "vits")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"size": "vitg"}, "no video-depth-anything model 'vitg'"),
        ({"precision": "fp16"}, "fp16 needs a CUDA device"),
        ({"precision": "int8"}, "no precision 'int8'"),
        ({"input_size": 500}, "multiple of 14"),
        ({"device": "abacus"}, "no device 'abacus'"),
        ({"compile_network": True}, "needs a CUDA device"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(weights: Path, settings: dict[str, object], problem: str):
    with pytest.raises(ConfigError, match=problem):
        VideoDepthAnything(**{"weights": weights, "device": "cpu", **settings})


def test_the_metric_variant_gives_metres(tiny: Callable[..., VideoDepthAnything], small_weights: Path, tmp_path: Path):
    path = tmp_path / published_file("vits", metric=True)
    path.symlink_to(small_weights)
    model = tiny(metric=True, weights=path)
    depth = model.estimate(synthetic_clip(30, 24, 32), size=(24, 32))
    assert depth.kind == "metric"
    assert depth.report["scale_shift"] == [[[1.0, 0.0]]]


# GPU


@pytest.mark.gpu
@pytest.mark.parametrize("settings", [{}, {"precision": "fp16"}, {"precision": "fp16", "compile_network": True}])
def test_a_gpu_gives_the_depth_of_the_cpu(weights: Path, settings: dict[str, object]):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    pixels = synthetic_clip(38, 60, 80)
    exact = VideoDepthAnything("vits", weights=weights, input_size=56, device="cpu").estimate(pixels, size=(60, 80))
    fast = VideoDepthAnything("vits", weights=weights, input_size=56, device="cuda", **settings)
    error = np.abs(fast.estimate(pixels, size=(60, 80)).values - exact.values)
    if not settings:
        assert error.max() < VIDEO
    assert error.mean() < 0.005 * exact.values.std()
