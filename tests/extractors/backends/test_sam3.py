import json

import numpy as np
import pytest
import torch

from extractors.build import SEGMENTERS
from extractors.errors import ConfigError, DeviceMemoryError, WeightsError
from tests.extractors.backends import tiny_models
from tests.extractors.test_masks import clip, noise
from tests.support import square_clip

pytest.importorskip("transformers", reason="SAM 3 needs the transformers package (extra `sam`)")

SIZE = (24, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.save_sam3(tmp_path_factory.mktemp("sam3"))


def build(folder, **settings):
    return SEGMENTERS["sam3"](**{"weights": folder, "device": "cpu", "prompts": ("object",), **settings})


def episode(n_frames=6):
    return clip(square_clip(n_frames)[0], gripper=(np.arange(n_frames) < n_frames / 2).astype(np.float32))


@pytest.mark.parametrize("plan", ["video", "frames"])
def test_several_prompts_give_objects_told_apart_and_one_is_chosen(folder, plan):
    masks = build(folder, plan=plan, prompts=("cube", "object"), max_objects=6, every=3).segment(episode(), size=SIZE)
    assert masks.object.any()
    rows = masks.report["candidates"]
    assert {row["prompt"] for row in rows} == {"cube", "object"}
    assert len({(row["prompt"], row["name"]) for row in rows}) == len(rows) <= 6
    assert masks.report["prompt"] == rows[0]["prompt"]
    assert masks.report["margin"] >= 0
    json.dumps(masks.report, allow_nan=False)


def test_objects_of_one_prompt_do_not_overlap(folder):
    found = build(folder, max_objects=5).propose(episode().pixels, ["object"], size=SIZE)
    assert len(found.candidates) > 1
    for frame in range(6):
        assert sum(np.asarray(each.masks[frame], int) for each in found.candidates).max() <= 1


def test_what_is_forgotten_changes_nothing(folder, monkeypatch):
    """A clip longer than all of the tracker's windows, with young objects, reconditioning and removal."""
    from extractors.backends import sam3

    pixels = noise(24, 40, 48, seed=3)
    pixels[:] = pixels[:1] // 2 + pixels // 8
    kept = build(folder, max_objects=3)
    short = kept.propose(pixels, ["object"], size=SIZE).candidates
    monkeypatch.setattr(sam3, "_forget", lambda *arguments: None)
    whole = kept.propose(pixels, ["object"], size=SIZE).candidates
    assert [each.name for each in short] == [each.name for each in whole]
    for one, other in zip(short, whole, strict=True):
        assert (np.stack(list(one.masks)) == np.stack(list(other.masks))).all()
        assert np.allclose(one.confidence, other.confidence)


@pytest.mark.slow
def test_memory_of_a_session_does_not_grow_with_the_clip(folder, monkeypatch):
    from extractors.backends import sam3

    sizes = []
    forget = sam3._forget

    def watch(session, frame, model):
        forget(session, frame, model)
        sizes.append(_elements(vars(session)))

    monkeypatch.setattr(sam3, "_forget", watch)
    build(folder, max_objects=2).propose(np.repeat(noise(1), 40, axis=0), ["object"], size=SIZE)
    # A reconditioned frame leaves an object pointer, nothing else.
    assert sizes[-1] < 1.05 * sizes[20]


def _elements(value):
    """Numbers held by tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(_elements(each) for each in value.values())
    if isinstance(value, list | tuple):
        return sum(_elements(each) for each in value)
    return 0


def test_no_detection_at_all_is_no_error(folder):
    masks = build(folder, threshold=0.94, robot_prompt="robot arm").segment(episode(), size=SIZE)
    assert not masks.object.any()
    assert not masks.robot.any()
    assert not masks.score.any()
    assert "found no 'object'" in masks.report["reason"]
    assert masks.report["candidates"] == []


@pytest.mark.slow
def test_robot_masks_are_those_of_the_robots_prompt(folder):
    segmenter = build(folder, robot_prompt="robot arm", max_objects=6)
    masks = segmenter.segment(episode(), size=SIZE)
    found = segmenter.propose(episode().pixels, ["object", "robot arm"], size=SIZE).candidates
    robots = [np.stack(list(each.masks)) for each in found if each.prompt == "robot arm"]
    assert (masks.robot == np.any(robots, axis=0)).all()
    assert {row["prompt"] for row in masks.report["candidates"]} == {"object"}


@pytest.mark.parametrize(
    "prompt", ["\U0001f955\U0001f37d\ufe0f", "x" * 10_000, "die Karotte", "胡萝卜", "a\x00b", "?!.", "carrot. plate"]
)
def test_any_text_can_be_asked_for(folder, prompt):
    masks = build(folder, prompts=(prompt,), max_objects=2, plan="frames").segment(episode(2), size=SIZE)
    assert masks.object.shape == (2, *SIZE)
    if len(prompt) > 100:
        assert masks.report["prompts_cut"]["tokens"] == 32


def test_blank_prompts_leave_nothing_to_ask_for(folder):
    masks = build(folder, prompts=(" ", "{object}")).segment(episode(2), size=SIZE)
    assert not masks.object.any()
    assert "every prompt was dropped" in masks.report["reason"]
    assert len(masks.report["prompts_dropped"]) == 2


def test_half_precision_runs_and_is_reported(folder):
    segmenter = build(folder, precision="bf16", max_objects=2)
    assert segmenter.precision == "bf16"
    assert next(segmenter.model.parameters()).dtype == torch.bfloat16
    assert segmenter.segment(episode(3), size=SIZE).object.shape == (3, *SIZE)
    assert build(folder).precision == "fp32"  # auto on a CPU


def test_the_same_clip_gives_the_same_masks(folder):
    segmenter = build(folder, max_objects=3)
    one, other = (segmenter.segment(episode(4), size=SIZE) for _ in range(2))
    assert (one.object == other.object).all()
    assert one.report == other.report


def test_frames_are_prepared_as_published(folder):
    """Against the library's own arithmetic: bytes resized with antialiasing, then scaled to [-1, 1]."""
    from PIL import Image

    image = square_clip(1, size=(120, 160))[0][0]
    made = build(folder)._preprocess(image).numpy().transpose(1, 2, 0)
    resized = np.asarray(Image.fromarray(image).resize((56, 56), Image.Resampling.BILINEAR), np.float32)
    # Two ways of rounding an antialiased byte differ by one level at most.
    assert np.abs((made + 1) * 127.5 - resized).max() < 1.01


def test_running_out_of_memory_names_the_ways_out(folder, monkeypatch):
    segmenter = build(folder)

    def exhaust(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(segmenter.model, "forward", exhaust)
    with pytest.raises(DeviceMemoryError, match=r"masks\.max_objects \(now 16\)"):
        segmenter.segment(episode(2), size=SIZE)


def test_weights_that_are_not_sam3_are_refused(tmp_path, folder):
    with pytest.raises(WeightsError, match=r"no config\.json.*grounded-sam"):
        build(tmp_path)
    with pytest.raises(WeightsError, match="type 'sam', wanted sam3_video"):
        build(tiny_models.save_sam(tmp_path / "sam"))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        build(tmp_path)


def test_a_checkpoint_that_lacks_weights_or_a_tokenizer_is_refused(tmp_path, folder):
    import shutil

    lacking = shutil.copytree(folder, tmp_path / "lacking")
    tiny_models.drop_weights(lacking, containing="detector_model.text_projection")
    with pytest.raises(WeightsError, match=r"2 are missing.*text_projection"):
        build(lacking)
    (lacking / "model.safetensors").write_bytes(b"truncated")
    with pytest.raises(WeightsError, match="cannot be loaded"):
        build(lacking)
    silent = shutil.copytree(folder, tmp_path / "silent")
    for file in silent.glob("*token*"):
        file.unlink()
    with pytest.raises(WeightsError, match="tokenizer"):
        build(silent)


def test_unknown_settings_are_refused(folder):
    for settings, named in (
        ({"plan": "images"}, "plan"),
        ({"precision": "fp8"}, "precision"),
        ({"prompts": ()}, "prompts"),
        ({"every": 0}, "every"),
    ):
        with pytest.raises(ConfigError, match=named):
            build(folder, **settings)
