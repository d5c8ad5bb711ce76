import numpy as np
import torch

from extractors.backends.mask_cleanup import clean_logits, clean_mask, keep_distinct


def boxes(*spans, size=(20, 20)):
    masks = torch.zeros(len(spans), *size, dtype=torch.bool)
    for mask, (y0, y1, x0, x1) in zip(masks, spans, strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def test_of_overlapping_masks_the_better_scored_stays():
    masks = boxes((0, 10, 0, 10), (0, 10, 1, 11), (0, 10, 10, 20))
    assert keep_distinct(masks, torch.tensor([0.5, 0.9, 0.7]), max_iou=0.5).tolist() == [1, 2]
    # The first two share 90 of 110 pixels.
    assert keep_distinct(masks, torch.tensor([0.5, 0.9, 0.7]), max_iou=0.82).tolist() == [1, 2, 0]


def test_equal_scores_go_by_order_and_counts_are_kept():
    masks = boxes((0, 5, 0, 5), (0, 5, 0, 5), (10, 15, 0, 5))
    assert keep_distinct(masks, torch.full((3,), 0.5), max_iou=0.1).tolist() == [0, 2]
    assert keep_distinct(masks, torch.full((3,), 0.5), max_iou=0.1, most=1).tolist() == [0]


def test_hundreds_of_detections_and_none():
    masks = torch.rand(600, 20, 20, generator=torch.Generator().manual_seed(0)) > 0.5
    assert len(keep_distinct(masks, torch.linspace(0, 1, 600), max_iou=0.9, most=5)) == 5
    assert keep_distinct(masks[:0], torch.zeros(0), max_iou=0.5).tolist() == []


def test_small_holes_are_filled_and_small_specks_removed():
    mask = np.zeros((30, 30), bool)
    mask[5:25, 5:25] = True
    mask[10:12, 10:12] = False  # a hole of 4
    mask[15:20, 15:20] = False  # a hole of 25
    mask[0, 0] = True  # a speck of 1
    cleaned = clean_mask(mask, max_area=16)
    assert cleaned[10:12, 10:12].all()
    assert not cleaned[15:20, 15:20].any()
    assert not cleaned[0, 0]


def test_an_object_of_few_pixels_is_no_speck():
    mask = np.zeros((30, 30), bool)
    mask[3:5, 3:6] = True
    assert (clean_mask(mask, max_area=16) == mask).all()


def test_logits_are_changed_only_where_the_mask_is():
    logits = torch.full((1, 12, 12), -3.0)
    logits[0, 2:10, 2:10] = 4.0
    logits[0, 5, 5] = -2.0
    cleaned = clean_logits(logits, max_area=4)
    changed = torch.nonzero(cleaned != logits).tolist()
    assert changed == [[0, 5, 5]]
    assert float(cleaned[0, 5, 5]) > 0
    assert clean_logits(logits, max_area=0) is logits
    assert clean_logits(logits[:0], max_area=4).shape == (0, 12, 12)
