import dataclasses

import cv2
import numpy as np
import pytest

from extractors.errors import ConfigError, LengthMismatchError, ShapeError
from extractors.mask_choice import choose_candidate
from extractors.mask_watching import Candidate, ChoiceRule
from extractors.packed_masks import PackedMasks
from tests.benchmarks import mask_choice
from tests.support import shared_data

N_FRAMES, HEIGHT, WIDTH = 24, 96, 128
GRASP = 12


def texture(shape, seed):
    noise = np.random.default_rng(seed).integers(0, 255, (*shape, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def grasp_clip():
    """A rod comes down from the upper border, stops at a square, and both go right; another square lies still."""
    table = texture((HEIGHT, WIDTH), 0) // 2 + 60
    paint = {name: texture((HEIGHT, WIDTH), seed) for seed, name in enumerate(("arm", "object", "other"), start=1)}
    pixels = np.repeat(table[None], N_FRAMES, axis=0)
    masks = {name: np.zeros((N_FRAMES, HEIGHT, WIDTH), bool) for name in paint}
    for t in range(N_FRAMES):
        along = 3 * max(t - GRASP, 0)
        masks["other"][t, 60:76, 12:28] = True
        masks["object"][t, 62:78, 50 + along : 66 + along] = True
        masks["arm"][t, : 26 + 3 * min(t, GRASP), 52 + along : 64 + along] = True
        masks["arm"][t] &= ~masks["object"][t]
        for name, mask in masks.items():
            shift = along if name != "other" else 0
            pixels[t][mask[t]] = np.roll(paint[name], (3 * min(t, GRASP) if name == "arm" else 0, shift), (0, 1))[
                mask[t]
            ]
    gripper = np.where(np.arange(N_FRAMES) < GRASP - 1, 1.0, 0.1).astype(np.float32)
    return pixels, masks, gripper


def candidate(masks, prompt="", confidence=0.7):
    return Candidate(masks, (masks.any(axis=(1, 2)) * confidence).astype(np.float32), prompt)


@pytest.fixture(scope="module")
def grasp():
    return grasp_clip()


@pytest.mark.parametrize("order", [("object", "arm", "other"), ("other", "arm", "object")])
@pytest.mark.parametrize("with_gripper", [True, False])
def test_what_rests_and_then_goes_with_the_gripper_is_chosen(grasp, order, with_gripper):
    pixels, masks, gripper = grasp
    field = [candidate(masks[name], name) for name in order]
    choice = choose_candidate(field, pixels, gripper if with_gripper else None)
    assert order[choice.index] == "object"
    assert choice.margin > 0.1
    cues = dict(zip(order, choice.cues, strict=True))
    assert cues["object"]["still_before"] > 0.9
    assert cues["arm"]["still_before"] < 0.5
    assert cues["other"]["moves"] == 0


def test_a_sure_detector_does_not_outweigh_behaviour(grasp):
    pixels, masks, gripper = grasp
    field = [candidate(masks["arm"], confidence=0.99), candidate(masks["object"], confidence=0.4)]
    assert choose_candidate(field, pixels, gripper).index == 1


def test_known_robot_pixels_speak_against_a_candidate(grasp):
    pixels, masks, gripper = grasp
    both = masks["arm"] | masks["object"]
    choice = choose_candidate([candidate(both), candidate(masks["object"])], pixels, gripper, robot=masks["arm"])
    assert choice.index == 1
    assert choice.cues[0]["not_robot"] < 0.5
    assert choice.cues[1]["not_robot"] == 1


def test_the_same_region_under_two_names_is_no_rival(grasp):
    pixels, masks, gripper = grasp
    smaller = masks["object"].copy()
    smaller[:, :63] = False
    twice = choose_candidate([candidate(masks["object"]), candidate(smaller)], pixels, gripper)
    assert twice.margin == max(twice.scores)


def test_first_takes_the_first_that_is_there_and_scores_nothing(grasp):
    pixels, masks, gripper = grasp
    field = [candidate(np.zeros_like(masks["arm"]), "none"), candidate(masks["arm"], "arm"), candidate(masks["object"])]
    choice = choose_candidate(field, pixels, gripper, by="first")
    assert choice.index == 1
    assert choice.cues[1] == {}


def test_no_candidate_or_only_empty_ones_choose_nothing(grasp):
    pixels, masks, gripper = grasp
    assert choose_candidate([], pixels, gripper).index is None
    empty = choose_candidate([candidate(np.zeros_like(masks["arm"]))], pixels, gripper)
    assert empty.index is None
    assert empty.margin == 0


def test_the_report_is_json_best_first_with_the_margin(grasp):
    pixels, masks, gripper = grasp
    field = [candidate(masks["arm"], "robot arm"), candidate(masks["object"], "cube")]
    report = choose_candidate(field, pixels, gripper).report(field)
    assert report["prompt"] == "cube"
    assert [row["prompt"] for row in report["candidates"]] == ["cube", "robot arm"]
    assert report["candidates"][0]["score"] >= report["candidates"][1]["score"]
    assert report["margin"] == pytest.approx(
        report["candidates"][0]["score"] - report["candidates"][1]["score"], abs=2e-4
    )


def test_hundreds_of_candidates_report_cues_of_the_best_only(grasp):
    pixels, masks, _ = grasp
    field = [candidate(masks["other"][:, ::-1])] * 120 + [candidate(masks["object"])]
    short = [dataclasses.replace(each, masks=each.masks[:4], confidence=each.confidence[:4]) for each in field]
    rows = choose_candidate(short, pixels[:4]).report(short)["candidates"]
    assert len(rows) == 121
    assert sum("cues" in row for row in rows) == 50


def test_a_moving_camera_does_not_make_everything_move():
    rng = np.random.default_rng(0)
    world = cv2.GaussianBlur(rng.integers(0, 255, (200, 400, 3), dtype=np.uint8), (0, 0), 2)
    pixels = np.stack([world[20 : 20 + HEIGHT, 4 * t : 4 * t + WIDTH] for t in range(16)])
    still = np.zeros((16, HEIGHT, WIDTH), bool)
    on_camera = np.zeros((16, HEIGHT, WIDTH), bool)
    for t in range(16):
        still[t, 40:56, 100 - 4 * t : 116 - 4 * t] = True
        on_camera[t, 70:, 50:80] = True
        pixels[t][on_camera[t]] = texture((HEIGHT, WIDTH), 5)[on_camera[t]]
    cues = choose_candidate([candidate(still), candidate(on_camera)], pixels).cues
    assert cues[0]["still_before"] > 0.9
    assert cues[1]["still_before"] < 0.5


def test_lengths_must_agree_and_the_rule_be_known(grasp):
    pixels, masks, gripper = grasp
    with pytest.raises(LengthMismatchError, match="gripper"):
        choose_candidate([candidate(masks["arm"])], pixels, gripper[:-1])
    with pytest.raises(LengthMismatchError, match="masks of candidate 0"):
        choose_candidate([candidate(masks["arm"][:-1])], pixels)
    with pytest.raises(ConfigError, match="best"):
        choose_candidate([], pixels, by="last")


def test_cues_that_the_clip_does_not_tell_leave_their_weight_to_the_others():
    pixels = np.full((1, 32, 32, 3), 90, np.uint8)
    masks = np.zeros((1, 32, 32), bool)
    masks[0, 8:16, 8:16] = True
    choice = choose_candidate([candidate(masks)], pixels, np.ones(1, np.float32), rule=ChoiceRule())
    assert choice.index == 0
    assert choice.cues[0]["with_gripper"] is None
    assert 0 < choice.scores[0] <= 1


def test_packed_masks_come_back_as_they_went_in():
    masks = np.random.default_rng(0).random((5, 13, 17)) > 0.7
    masks[2] = False
    packed = PackedMasks.of(masks)
    assert packed.shape == masks.shape
    assert (np.stack(list(packed)) == masks).all()
    assert packed.present.tolist() == [True, True, False, True, True]
    with pytest.raises(ShapeError, match="bool"):
        packed[0] = np.zeros((13, 16), bool)


@pytest.mark.slow
@pytest.mark.shared
def test_the_true_mask_is_chosen_in_nine_of_ten_episodes():
    chosen = {}
    for result in mask_choice.measure(shared_data("groundtruth_dev")):
        chosen.setdefault(result.condition, []).append(result.chosen == mask_choice.TRUE)
    assert len(chosen) == 1 + 2 * len(mask_choice.DAMAGES)
    assert all(np.mean(right) >= 0.9 for right in chosen.values()), {key: sum(each) for key, each in chosen.items()}
