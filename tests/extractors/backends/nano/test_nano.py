import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from extractors.backends.nano.clips import (
    answers,
    clip_scenery,
    read_context,
    working_frames,
    working_size,
)
from extractors.backends.nano.depth import NanoDepth
from extractors.backends.nano.inputs import CHANNELS, Scenery, network_inputs
from extractors.backends.nano.network import CLASSES, NanoNetwork
from extractors.backends.nano.packaged import PACKAGED, weights_digest
from extractors.backends.nano.segmenter import NanoSegmenter
from extractors.backends.nano.weights import load_network, save_weights
from extractors.errors import WeightsError
from extractors.types import Episode

SAMPLE = Path(__file__).parents[4] / "flows" / "sources" / "sample" / "bridge_raw"

SHA256 = "3373237c4c30f6be5571422b410182c210ea4d02606114b0982aec801d151b8c"
"""Of the packaged weights; docs/nano.md's numbers are theirs."""


@pytest.fixture(scope="module")
def network() -> NanoNetwork:
    return load_network()


def episode(pixels, **fields) -> Episode:
    return Episode("clip", 0, "front", "", 5.0, pixels, np.arange(len(pixels)) / 5.0, **fields)


def test_the_network_is_small_and_so_is_its_file():
    assert sum(each.numel() for each in NanoNetwork().parameters()) < 2_000_000
    assert PACKAGED.stat().st_size < 5_000_000


def test_the_weights_are_those_that_the_numbers_were_measured_with():
    assert weights_digest() == SHA256


def test_an_answer_has_a_class_and_a_depth_for_each_pixel(network):
    answer = network(torch.zeros(6, CHANNELS, 48, 64), n_clips=2)
    assert answer.logits.shape == (6, len(CLASSES), 48, 64)
    assert answer.first.shape == (6, len(CLASSES), 12, 16)
    assert answer.inverse_depth.shape == (6, 48, 64)


def test_clips_of_a_batch_do_not_see_each_other(network):
    torch.manual_seed(0)
    one, other = torch.rand(3, CHANNELS, 32, 32), torch.rand(3, CHANNELS, 32, 32)
    with torch.inference_mode():
        together = network(torch.cat([one, other]), n_clips=2).logits[:3]
        torch.testing.assert_close(together, network(one).logits, atol=1e-4, rtol=1e-4)


def test_a_clip_read_by_keys_is_answered_as_in_training(network):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 32, 48, 3), dtype=np.uint8)
    scenery = clip_scenery(pixels)
    at = np.arange(16)
    inputs = network_inputs(pixels, pixels[np.maximum(at - 1, 0)], pixels[np.minimum(at + 1, 15)], scenery)
    with torch.inference_mode():
        whole = network(inputs)
    by_keys = list(answers(network, pixels, scenery, read_context(network, pixels, scenery)))
    np.testing.assert_allclose(np.stack([each[0] for each in by_keys]), whole.logits.softmax(1), atol=1e-3)
    depth = np.stack([each[1] for each in by_keys])
    np.testing.assert_allclose(depth[:, :-1], whole.inverse_depth[:, :-1], atol=1e-2)


def test_what_was_put_elsewhere_differs_between_early_and_late_and_what_passes_does_not():
    pixels = np.full((12, 32, 48, 3), 90, np.uint8)
    for frame in range(12):
        pixels[frame, 2:6, 4 * frame : 4 * frame + 4] = 20
        left = 8 if frame < 6 else 32
        pixels[frame, 20:28, left : left + 8] = 200
    scenery = Scenery.of(pixels)
    differs = (scenery.early != scenery.late).any(-1)
    expected = np.zeros((32, 48), bool)
    expected[20:28, 8:16] = expected[20:28, 32:40] = True
    assert (differs == expected).all()


def test_an_even_number_of_frames_leaves_no_ghost():
    pixels = np.stack([np.full((4, 4, 3), value, np.uint8) for value in (10, 200)])
    assert set(np.unique(Scenery.of(pixels).whole)) <= {10, 200}


@pytest.mark.parametrize("size", [(1, 1), (2, 400), (480, 640), (240, 320), (37, 53)])
def test_working_sizes_are_multiples_of_the_stride(size):
    assert all(side % 16 == 0 and 16 <= side <= 176 for side in working_size(size, 160))


def test_only_what_the_network_sees_move_has_a_depth_of_its_own(monkeypatch):
    def answer(network, frames, scenery, context):
        for number in range(len(frames)):
            shares = np.zeros((4, 32, 48), np.float32)
            shares[CLASSES.index("robot"), 8:16, 4 * number : 4 * number + 8] = 1
            # Each frame comes on a scale of its own, and nearer where the robot is.
            yield shares, (still + 5 * shares[1]) * (1 + number) - number

    still = np.tile(np.linspace(0, 1, 32, dtype=np.float32)[:, None], (1, 48))
    monkeypatch.setattr("extractors.backends.nano.depth.answers", answer)
    monkeypatch.setattr("extractors.backends.nano.depth.background_depth", lambda *given: still)
    pixels = np.full((6, 32, 48, 3), 90, np.uint8)
    depth = NanoDepth(working_px=48).estimate(pixels, size=(32, 48))
    assert depth.report["camera_moves"] is False
    assert (np.ptp(depth.values, axis=0)[20:] == 0).all()
    for frame in range(6):
        robot = depth.values[frame, 9:15, 4 * frame + 1 : 4 * frame + 7]
        np.testing.assert_allclose(robot, still[9:15, :6] + 5, atol=0.2)


@pytest.mark.parametrize("step", [2, 14])
def test_a_moving_camera_gets_depth_by_one_background_or_by_each_frames_own(step):
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (20, 60, 3), dtype=np.uint8), np.ones((6, 6, 1), np.uint8))
    pixels = np.stack([wide[:96, step * shift : step * shift + 128] for shift in range(16)])
    masks = NanoSegmenter().segment(episode(pixels), size=(48, 64))
    assert not masks.object.any()
    assert masks.report["reason"] == "nothing is handled" if step == 2 else "camera moves" in masks.report["reason"]
    depth = NanoDepth().estimate(pixels, size=(48, 64))
    assert depth.report["camera_moves"] is True
    assert ("steadied" in depth.report) is (step == 2)
    assert np.isfinite(depth.values).all()
    # Seen from elsewhere the same place has the same depth.
    if step == 2:
        np.testing.assert_allclose(depth.values[8, :, 1:33], depth.values[0, :, 9:41], atol=0.1 * np.ptp(depth.values))


@dataclass
class Repeated:
    """`count` frames that are made when they are asked for."""

    count: int
    shape: tuple[int, ...]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[np.ndarray]:
        for number in range(self.count):
            frame = np.full(self.shape[1:], 90, np.uint8)
            frame[20:30, number % 60 : number % 60 + 8] = (200, 30, 30)
            yield frame


def test_a_clip_of_two_thousand_frames_is_kept_small():
    pixels = Repeated(400, (400, 96, 128, 3))
    tracemalloc.start()
    working_frames(pixels, working_size((96, 128), 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * 400 * 48 * 64 * 3 + 1e6


def test_weights_come_back_and_damaged_ones_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    network = NanoNetwork().eval()
    save_weights(network, path)
    torch.testing.assert_close(load_network(path).stem[0].weight, network.stem[0].weight, atol=1e-3, rtol=1e-2)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="does not hold nano's weights"):
        load_network(path)
    with pytest.raises(WeightsError, match="`cuepack models distil`"):
        load_network(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("task", ["plate", "tray", "stand", "box"])
def test_depth_goes_on_to_the_edges_of_the_picture(task):
    (folder,) = SAMPLE.glob(f"tabletop_{task}/**/images0")
    paths = sorted(folder.glob("im_*.jpg"), key=lambda path: int(path.stem[3:]))
    pixels = np.stack([cv2.imread(str(path))[..., ::-1] for path in paths[::4]])
    depth = NanoDepth().estimate(pixels, size=(80, 112)).values
    spread = np.abs(depth - np.median(depth)).mean()
    for edge in (depth[:, -3:], depth[:, 2::-1], depth[..., -3:].swapaxes(1, 2), depth[..., 2::-1].swapaxes(1, 2)):
        third, second, last = np.median(edge, axis=(0, 2))
        assert abs(last - 2 * second + third) < 0.1 * spread
