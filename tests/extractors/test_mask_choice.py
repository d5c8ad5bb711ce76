import numpy as np
import pytest

from extractors.errors import LengthMismatchError
from extractors.mask_choice import Candidate, Handled, choose_first, choose_handled
from tests.benchmarks import mask_choice
from tests.support import shared_data

N_FRAMES, SIZE = 12, (96, 128)


def square(top, left, side=24):
    masks = np.zeros((N_FRAMES, *SIZE), bool)
    masks[:, top : top + side, left : left + side] = True
    return masks


def candidate(masks, prompt="", confidence=0.7):
    return Candidate(masks, (masks.any(axis=(1, 2)) * confidence).astype(np.float32), prompt)


OBJECT, OTHER = square(40, 20), square(40, 80)
ARM = square(0, 24, side=40) & ~OBJECT


@pytest.fixture(params=[1, 2, 4], ids="one pixel in {}".format)
def handled(request):
    """The object's place, seen at some moments and at another size, with doubt."""
    at, step = np.array([0, 3, 7, 11]), request.param
    return Handled(at, OBJECT[at, ::step, ::step].astype(np.float16) * np.float16(0.8))


@pytest.mark.parametrize("order", [("object", "arm", "other", "both"), ("both", "other", "arm", "object")])
def test_what_overlaps_most_with_what_is_handled_is_chosen(handled, order):
    masks = {"object": OBJECT, "arm": ARM, "other": OTHER, "both": OBJECT | ARM}
    choice = choose_handled([candidate(masks[name], name) for name in order], handled)
    assert order[choice.index] == "object"
    assert choice.scores[choice.index] == pytest.approx(0.8, abs=0.05)
    assert choice.margin > 0.2


def test_a_sure_detector_does_not_outweigh_what_is_seen(handled):
    assert choose_handled([candidate(ARM, confidence=0.99), candidate(OBJECT, confidence=0.4)], handled).index == 1


def test_where_nothing_is_seen_the_detectors_confidence_decides(handled):
    nothing = Handled(handled.at, np.zeros_like(handled.shares))
    choice = choose_handled([candidate(ARM, confidence=0.5), candidate(OTHER, confidence=0.6)], nothing)
    assert (choice.index, choice.margin) == (1, 0)


def test_a_candidate_that_is_only_there_between_the_moments_is_still_one(handled):
    shown = np.zeros_like(OBJECT)
    shown[5] = OBJECT[5]
    choice = choose_handled([candidate(np.zeros_like(OBJECT)), candidate(shown)], handled)
    assert (choice.index, choice.scores) == (1, (0, 0))


def test_the_same_region_under_two_names_is_no_rival(handled):
    smaller = OBJECT.copy()
    smaller[:, :44] = False
    twice = choose_handled([candidate(OBJECT), candidate(smaller)], handled)
    assert twice.margin == max(twice.scores)


def test_first_takes_the_first_that_is_there_and_scores_confidence():
    choice = choose_first([candidate(np.zeros_like(ARM), "none"), candidate(ARM, "arm"), candidate(OBJECT)])
    assert choice.index == 1
    assert choice.scores == pytest.approx((0, 0.7, 0.7))


def test_no_candidate_or_only_empty_ones_choose_nothing(handled):
    assert choose_handled([], handled).index is None
    assert choose_first([]).index is None
    empty = choose_handled([candidate(np.zeros_like(ARM))], handled)
    assert (empty.index, empty.margin) == (None, 0)


def test_the_report_is_json_best_first_with_the_margin(handled):
    field = [candidate(ARM, "robot arm"), candidate(OBJECT, "cube")]
    report = choose_handled(field, handled).report(field)
    assert report["prompt"] == "cube"
    assert [row["prompt"] for row in report["candidates"]] == ["cube", "robot arm"]
    best, other = (row["score"] for row in report["candidates"])
    assert report["margin"] == pytest.approx(best - other, abs=2e-4)


def test_fewer_masks_than_frames_are_an_error(handled):
    with pytest.raises(LengthMismatchError, match="candidate 0 has 11 masks"):
        choose_handled([candidate(ARM[:-1])], handled)


def test_long_clips_of_large_masks_do_not_overflow():
    shares = np.ones((300, 160, 160), np.float16)
    masks = np.ones((300, 160, 160), bool)
    choice = choose_handled([candidate(masks)], Handled(np.arange(300), shares))
    assert choice.scores == (1.0,)


@pytest.mark.slow
@pytest.mark.shared
def test_the_true_mask_is_chosen_in_most_episodes():
    chosen = {}
    for result in mask_choice.measure(shared_data("groundtruth_dev")):
        chosen.setdefault(result.condition, []).append(result.chosen == mask_choice.TRUE)
    assert len(chosen) == 1 + 2 * len(mask_choice.DAMAGES)
    assert all(np.mean(right) >= 0.7 for right in chosen.values()), {key: sum(each) for key, each in chosen.items()}
