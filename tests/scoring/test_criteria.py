import numpy as np
import pytest

from scoring.criteria import (
    best_possible_score,
    combine,
    depth_score,
    displacement_score,
    explain_score,
    length_score,
    mask_score,
    score_metadata,
    task_score,
)
from scoring.masks import measure_masks
from scoring.settings import ScoringSettings

SETTINGS = ScoringSettings()


def test_tasks_are_ranked_as_the_study_wants_them():
    put, move, carry, fold = (
        task_score(text)
        for text in ("put the carrot on the plate", "move the pot", "put the towel in the basket", "fold the towel")
    )
    assert put == 1 > move > carry > fold
    assert task_score("pick up the cup") == task_score("take the lid off the pot") == 1


@pytest.mark.parametrize("text", ["", "\x00\n", "kaixo mundua", "valid"])
def test_a_clip_without_a_known_instruction_is_neutral(text):
    assert task_score(text) == 0.5


def test_a_towel_as_the_target_costs_nothing():
    assert task_score("put the carrot on the towel") == 1


@pytest.mark.parametrize(
    ("n_frames", "score"), [(15, 1), (40, 1), (28, 1), (1, 0), (8, 0.5), (100, 0.5), (160, 0), (9999, 0), (None, None)]
)
def test_length_has_a_sweet_spot(n_frames, score):
    assert length_score(n_frames, 5.0, SETTINGS) == (None if score is None else pytest.approx(score))


@pytest.mark.parametrize("fps", [1, 5, 10, 30, 60])
@pytest.mark.parametrize(("seconds", "score"), [(3, 1), (8, 1), (20, 0.5), (32, 0), (1.5, 0.5)])
def test_length_is_told_in_seconds(fps, seconds, score):
    assert length_score(round(seconds * fps), fps, SETTINGS) == pytest.approx(score, abs=0.5 / fps)


def test_a_length_whose_rate_nobody_knows_is_not_told():
    assert length_score(30, None, SETTINGS) is None


def square_masks(side, n_frames=10, size=100):
    masks = np.zeros((n_frames, size, size), bool)
    masks[:, :side, :side] = True
    return masks


@pytest.mark.parametrize(("side", "score"), [(20, 1), (50, 1), (10, 0.5), (100, 0), (0, 0)])
def test_mask_coverage_wants_2_to_25_percent(side, score):
    assert mask_score(measure_masks(square_masks(side), 5.0), SETTINGS) == pytest.approx(score)


def test_an_unsteady_mask_scores_less():
    masks = square_masks(30)
    masks[1::2] &= np.arange(100) < 15  # half the area in every other frame: change 0.5, which scores 0
    assert mask_score(measure_masks(masks, 5.0), SETTINGS) == pytest.approx(0, abs=0.01)


def test_frames_without_a_mask_cost_their_share():
    masks = square_masks(30)
    masks[5:] = False
    # One of the nine steps loses everything: mean change 1/5 of those that have a mask on a side.
    assert mask_score(measure_masks(masks, 5.0), SETTINGS) == pytest.approx(0.5 * (1 - (1 / 5) / SETTINGS.flicker_zero))


def test_depth_and_displacement_saturate():
    assert [depth_score(x, SETTINGS) for x in (None, 0, 1, 2, 9)] == [None, 0, 0.5, 1, 1]
    assert [displacement_score(x, SETTINGS) for x in (None, 0, 0.09, 0.18, 0.4)] == [None, 0, 0.5, 1, 1]


def test_a_missing_part_gives_its_weight_to_the_others():
    scores = combine({"task": 1.0, "length": 0.0, "depth": None}, SETTINGS)
    assert scores["score"] == 0.5
    assert scores["weight_missing"] == pytest.approx(1 / 3, abs=1e-6)
    assert scores["depth"] is None


def test_weights_are_configuration():
    heavy = ScoringSettings(weight_task=3, weight_length=1)
    assert combine({"task": 1.0, "length": 0.0}, heavy)["score"] == 0.75
    assert combine({"task": 1.0}, ScoringSettings(weight_task=0))["score"] is None


def test_a_score_that_is_nan_counts_as_not_told():
    scores = combine({"task": float("nan"), "length": 0.25, "mask": float("inf")}, SETTINGS)
    assert (scores["task"], scores["mask"], scores["score"]) == (None, None, 0.25)


def test_no_content_beats_the_best_that_metadata_allow():
    for text in ("fold the towel", "put a on b", ""):
        for n_frames in (3, 30, 500, None):
            metadata = score_metadata(text, n_frames, 5.0, SETTINGS)
            bound = best_possible_score(metadata, SETTINGS)
            for content in (0.0, 0.5, 1.0):
                parts = {"task": metadata["task"], "length": length_score(n_frames or 30, 5.0, SETTINGS)}
                parts |= {"mask": content, "depth": None, "displacement": 1.0}
                assert combine(parts, SETTINGS)["score"] <= bound + 1e-6


def test_a_low_score_is_explained_worst_first():
    scores = combine({"task": 0.1, "length": 1.0, "mask": 0.5, "depth": None}, SETTINGS)
    text = explain_score(scores, SETTINGS)
    assert text.index("task 0.10") < text.index("mask 0.50")
    assert "length" not in text
    assert "not measured: depth" in text
