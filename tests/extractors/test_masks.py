import dataclasses
import json

import numpy as np
import pytest

from extractors.build import SEGMENTERS
from extractors.errors import LengthMismatchError, MissingDataError, ShapeError
from extractors.geometry import resize_mask
from extractors.masks import recorded_masks, repair_flicker
from extractors.types import Episode
from tests.extractors.backends import tiny_models


def clip(pixels, *, gripper=None, masks=None, robot=None):
    return Episode(
        episode_id="clip",
        episode_index=0,
        camera_name="front",
        language_instruction="",
        fps=5.0,
        pixels=pixels,
        timestamp=np.arange(len(pixels)) / 5.0,
        gripper=gripper,
        recorded_masks=masks,
        recorded_robot=robot,
    )


def noise(n_frames=6, height=40, width=48, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (n_frames, height, width, 3), dtype=np.uint8)


ODD_CLIPS = {
    "one frame": noise(1),
    "two frames": noise(2),
    "grey": np.full((8, 40, 48, 3), 128, np.uint8),
    "black": np.zeros((8, 40, 48, 3), np.uint8),
    "four pixels": noise(8, 2, 2),
    "one column": noise(8, 30, 1),
    "noise": noise(8),
    "whole-frame flicker": np.where(np.arange(10)[:, None, None, None] % 2, 230, 20).astype(np.uint8)
    * np.ones((1, 40, 48, 3), np.uint8),
}


PROMPTED_BACKENDS = ("sam3", "grounded-sam")
PROMPTED = {"prompts": ("object",), "max_objects": 3}


@pytest.fixture(scope="session")
def segmenters(tmp_path_factory):
    """Backend -> segmenter; those that need weights get tiny models with random ones."""
    built = {}

    def build(backend):
        if backend not in built:
            built[backend] = SEGMENTERS[backend](**_settings(backend, tmp_path_factory.mktemp(backend)))
        return built[backend]

    return build


def _settings(backend, folder):
    if backend not in PROMPTED_BACKENDS:
        return {}
    pytest.importorskip("transformers", reason=f"{backend} needs the transformers package (extra `sam`)")
    if backend == "sam3":
        return {**PROMPTED, "weights": tiny_models.save_sam3(folder), "device": "cpu"}
    detector, sam = tiny_models.save_grounding_dino(folder / "dino"), tiny_models.save_sam(folder / "sam")
    return {**PROMPTED, "weights": sam, "detector_weights": detector, "device": "cpu"}


@pytest.mark.parametrize("backend", SEGMENTERS)
@pytest.mark.parametrize("name", ODD_CLIPS)
def test_every_segmenter_keeps_the_contract_on_odd_clips(segmenters, backend, name):
    pixels = ODD_CLIPS[name]
    n_frames = len(pixels)
    closing = (np.arange(n_frames) < n_frames / 2).astype(np.float32)
    episode = clip(pixels, gripper=closing, masks=np.zeros(pixels.shape[:3], bool))
    masks = segmenters(backend).segment(episode, size=(24, 32))
    assert masks.object.shape == (n_frames, 24, 32)
    assert masks.object.dtype == np.bool_
    assert masks.score.shape == (n_frames,)
    assert masks.score.dtype == np.float32
    assert ((masks.score >= 0) & (masks.score <= 1)).all()
    assert (masks.score[~masks.object.any(axis=(1, 2))] == 0).all()
    json.dumps(masks.report, allow_nan=False)
    if not masks.object.any():
        assert masks.report["reason"]
    if backend in PROMPTED_BACKENDS:
        assert_tells_the_choice(masks)


def assert_tells_the_choice(masks):
    """The report has the chosen candidate first, the others by falling score, the margin, rule and prompt."""
    report = masks.report
    rows = report["candidates"]
    scores = [row["score"] for row in rows]
    assert all(0 <= score <= 1 for score in scores)
    assert scores[1:] == sorted(scores[1:], reverse=True)
    assert len({(row.get("prompt"), row["name"]) for row in rows}) == len(rows)
    assert -1 <= report["margin"] <= 1
    assert report["choose"] in ("best", "first")
    if masks.object.any():
        assert report["prompt"] == rows[0]["prompt"]
        if report["choose"] == "best":
            assert scores[0] == max(scores)


def test_recorded_masks_keep_the_object_the_robot_and_the_presence():
    masks = np.zeros((3, 8, 8), bool)
    masks[1:, 2:6, 2:6] = True
    robot = np.zeros((3, 8, 8), bool)
    robot[:, :, :2] = True
    result = recorded_masks(clip(noise(3, 8, 8), masks=masks, robot=robot), size=(4, 4))
    assert result.score.tolist() == [0, 1, 1]
    assert np.argwhere(result.object[1]).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
    assert result.robot[0].sum(axis=0).tolist() == [4, 0, 0, 0]
    assert result.report["vanished_frames"] == []


def test_an_object_smaller_than_a_pixel_is_reported():
    masks = np.zeros((2, 32, 32), bool)
    masks[1, 9, 9] = True
    result = recorded_masks(clip(noise(2, 32, 32), masks=masks), size=(8, 8))
    assert not result.object.any()
    assert result.score.tolist() == [0, 0]
    assert result.report["vanished_frames"] == [1]
    assert "smaller than a pixel" in result.report["reason"]


def test_recorded_masks_that_the_source_lacks_are_asked_for_in_vain():
    with pytest.raises(MissingDataError, match=r"masks\.backend=nano"):
        recorded_masks(clip(noise(2)), size=(8, 8))
    short = dataclasses.replace(clip(noise(3)), recorded_masks=np.zeros((2, 40, 48), bool))
    with pytest.raises(LengthMismatchError, match="3 frames and 2 object masks"):
        recorded_masks(short, size=(8, 8))


def test_a_mask_is_resized_by_the_area_it_covers():
    mask = np.zeros((6, 6), bool)
    mask[:, :2] = True
    assert resize_mask(mask, (3, 3))[:, 0].all()
    # two thirds of the first of two columns, none of the second
    assert resize_mask(mask, (6, 2)).sum(axis=0).tolist() == [6, 0]
    # half of it is enough
    mask[:, 1] = False
    assert resize_mask(mask, (3, 3))[:, 0].all()
    mask[1::2] = False
    assert not resize_mask(mask, (3, 3)).any()
    with pytest.raises(ShapeError, match="bool"):
        resize_mask(mask.astype(np.uint8), (3, 3))


def test_single_frame_holes_are_closed_and_spikes_removed_and_counted():
    masks = np.zeros((7, 4, 4), bool)
    masks[:, 0, :] = True
    masks[3] = False  # the whole mask is missing for one frame
    masks[2, 3, 3] = True  # a lone pixel
    repaired, report = repair_flicker(masks)
    assert repaired[:, 0].all()
    assert not repaired[:, 1:].any()
    assert report == {"holes_closed_px": 4, "spikes_removed_px": 1, "frames_filled": 1, "frames_cleared": 0}


def test_repair_leaves_longer_changes_and_short_clips_alone():
    masks = np.zeros((8, 2, 2), bool)
    masks[3:5] = True
    repaired, report = repair_flicker(masks)
    assert (repaired == masks).all()
    assert not any(report.values())
    for n_frames in (0, 1, 2):
        assert repair_flicker(masks[:n_frames])[0].shape == (n_frames, 2, 2)
    with pytest.raises(ShapeError, match=r"\(T, H, W\)"):
        repair_flicker(masks[0])
