import json

import numpy as np
import pytest
import torch

from extractors.build import SEGMENTERS
from extractors.errors import ConfigError, WeightsError
from tests.extractors.backends import tiny_models
from tests.extractors.test_masks import clip
from tests.support import square_clip

pytest.importorskip("transformers", reason="Grounding DINO needs the transformers package (extra `sam`)")

SIZE = (24, 32)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("grounded")
    return tiny_models.save_grounding_dino(root / "dino"), tiny_models.save_sam(root / "sam")


def build(folders, **settings):
    detector, sam = folders
    wanted = {"detector_weights": detector, "weights": sam, "device": "cpu", "prompts": ("object",)}
    return SEGMENTERS["grounded-sam"](**{**wanted, **settings})


def episode(n_frames=6):
    return clip(square_clip(n_frames)[0], gripper=(np.arange(n_frames) < n_frames / 2).astype(np.float32))


def test_several_prompts_give_objects_told_apart_and_one_is_chosen(folders):
    masks = build(folders, prompts=("cube", "object"), max_objects=5, every=3).segment(episode(), size=SIZE)
    assert masks.object.any()
    rows = masks.report["candidates"]
    assert {row["prompt"] for row in rows} <= {"cube", "object"}
    assert len({(row["prompt"], row["name"]) for row in rows}) == len(rows) <= 5
    assert masks.report["prompt"] == rows[0]["prompt"]
    json.dumps(masks.report, allow_nan=False)


def test_all_prompts_go_through_in_one_pass_and_are_told_apart_by_their_tokens(folders):
    detector = build(folders).detector
    query = detector.query(["ab", "c?d", ""])
    assert query.ids.tolist() == [[101, 200, 301, 1012, 202, 203, 1012, 1012, 102]]
    assert query.spans == ((1, 3), (4, 6), (7, 7))
    boxes, scores, owners = detector.detect(episode().pixels[0], query, threshold=0.0, most=100)
    assert boxes.shape == (len(scores), 4)
    assert set(owners) <= {0, 1}  # nothing answers a prompt without words
    assert (np.diff(scores) <= 0).all()
    assert (boxes >= 0).all()
    assert (boxes <= [64, 48, 64, 48]).all()


def test_scores_are_those_of_the_librarys_own_reading(folders):
    """One prompt: the best of its tokens is what `post_process_grounded_object_detection` gives."""
    detector = build(folders).detector
    query = detector.query(["cube"])
    image = episode().pixels[0]
    _, scores, _ = detector.detect(image, query, threshold=0.0, most=100)
    from extractors.backends.segment_anything import normalized

    pixels = normalized(image, detector._size(48, 64), torch.device("cpu"))
    with torch.inference_mode():
        out = detector.model(
            pixel_values=pixels, input_ids=query.ids, token_type_ids=torch.zeros_like(query.ids), return_dict=True
        )
    first, last = query.spans[0]
    best = out.logits[0, :, first:last].sigmoid().amax(-1).sort(descending=True).values
    assert np.allclose(scores, best[best > 0].numpy(), atol=1e-5)


def test_images_are_sized_and_normalized_as_by_the_librarys_processor(folders):
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    from extractors.backends.segment_anything import normalized

    detector = build(folders).detector
    for size in ((48, 64), (90, 60), (40, 200)):
        image = square_clip(1, size=size)[0][0]
        processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 160})
        wanted = processor(images=[image], return_tensors="pt")["pixel_values"]
        made = normalized(image, detector._size(*size), torch.device("cpu"))
        assert made.shape == wanted.shape
        # A byte's rounding is one level of 255, over a deviation of 0.22.
        assert float((made - wanted).abs().max()) < 1.5 / 255 / 0.22


def test_boxes_become_masks_as_by_the_librarys_processor(folders):
    from PIL import Image
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    segmenter = build(folders).segmenter
    image = square_clip(1, size=(48, 96))[0][0]
    boxes = np.array([[4, 16, 16, 28], [30, 5, 90, 40]], np.float32)
    made = segmenter.segment_boxes(image, boxes, size=(48, 96))
    processor = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    inputs = processor(images=[Image.fromarray(image)], return_tensors="pt")
    scaled = torch.from_numpy(boxes * 64 / 96)[None]
    with torch.inference_mode():
        out = segmenter.model(pixel_values=inputs["pixel_values"], input_boxes=scaled, multimask_output=False)
    wanted = processor.post_process_masks(out.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    wanted = np.asarray(wanted[0])[:, 0]
    # A few pixels of the border: the processor's bytes are rounded otherwise.
    assert ((made != wanted).mean(axis=(1, 2)) < 0.005).all()


def test_no_boxes_give_no_masks_and_no_error(folders):
    segmenter = build(folders, threshold=0.9999999)
    segmenter.threshold = 1.0
    masks = segmenter.segment(episode(), size=SIZE)
    assert not masks.object.any()
    assert not masks.score.any()
    assert "grounded-sam found no 'object'" in masks.report["reason"]
    assert segmenter.segmenter.segment_boxes(episode().pixels[0], np.zeros((0, 4), np.float32), size=SIZE).shape[0] == 0


@pytest.mark.parametrize("prompt", ["\U0001f955\U0001f37d", "x" * 10_000, "die Karotte", "胡萝卜", "a.b?c", "..."])
def test_any_text_can_be_asked_for(folders, prompt):
    masks = build(folders, prompts=(prompt, "object")).segment(episode(2), size=SIZE)
    assert masks.object.shape == (2, *SIZE)
    if len(prompt) > 100:
        assert masks.report["prompts_cut"]["prompts"] == ["x" * 60]


def test_robot_masks_are_those_of_the_robots_prompt(folders):
    masks = build(folders, robot_prompt="robot arm", max_objects=8).segment(episode(), size=SIZE)
    assert masks.robot is not None
    assert masks.robot.shape == masks.object.shape
    assert all(row["prompt"] == "object" for row in masks.report["candidates"])


def test_half_precision_is_the_segmenters(folders):
    segmenter = build(folders, precision="bf16")
    assert segmenter.precision == "bf16"
    assert next(segmenter.detector.model.parameters()).dtype == torch.float32
    assert segmenter.segment(episode(2), size=SIZE).object.shape == (2, *SIZE)


def test_wrong_checkpoints_and_settings_are_refused(folders, tmp_path):
    detector, sam = folders
    with pytest.raises(WeightsError, match=r"type 'sam', wanted grounding-dino.*masks\.detector_weights"):
        build((sam, sam))
    with pytest.raises(WeightsError, match="type 'grounding-dino', wanted sam;"):
        build((detector, detector))
    with pytest.raises(WeightsError, match=r"no config\.json"):
        build((detector, tmp_path))
    with pytest.raises(ConfigError, match="no segmenter 'sam2'"):
        build(folders, segmenter="sam2")
