"""The adapter to Meta's package, against a stand-in of the package: the real one imports torchvision."""

import sys
import types

import numpy as np
import pytest
import torch

from extractors.backends.segment_anything import SegmentAnything
from extractors.errors import ConfigError, WeightsError

SIZE = (20, 30)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.image_encoder = torch.nn.Module()
        self.image_encoder.pos_embed = torch.nn.Parameter(torch.zeros(1, 2, 2, 768))


class Predictor:
    """As the package's: boxes are given in the pixels of the transformed image, logits are above 0 inside them."""

    SCALE = 2.0

    def __init__(self, model):
        self.model = model
        self.transform = types.SimpleNamespace(apply_boxes_torch=lambda boxes, size: boxes * self.SCALE)

    def set_image(self, image):
        assert image.dtype == np.uint8
        self.size = image.shape[:2]

    def predict_torch(self, *, point_coords, point_labels, boxes, multimask_output):
        assert point_coords is None
        assert point_labels is None
        assert not multimask_output
        masks = torch.zeros(len(boxes), 1, *self.size, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(masks[:, 0], (boxes / self.SCALE).int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        return masks, None, None


@pytest.fixture
def package(monkeypatch):
    module = types.ModuleType("segment_anything")
    module.SamPredictor = Predictor
    module.sam_model_registry = {"vit_b": Model}
    monkeypatch.setitem(sys.modules, "segment_anything", module)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(Model().state_dict(), path)
    return path


def test_boxes_go_through_the_packages_own_transform(package, checkpoint):
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = np.array([[10, 4, 30, 24], [0, 0, 60, 40]], np.float32)
    masks = SegmentAnything(weights=checkpoint, device="cpu").segment_boxes(image, boxes, size=SIZE)
    assert masks.shape == (2, *SIZE)
    assert np.argwhere(masks[0])[[0, -1]].tolist() == [[2, 5], [11, 14]]
    assert masks[1].all()


def test_no_boxes_give_no_masks(package, checkpoint):
    segmenter = SegmentAnything(weights=checkpoint, device="cpu")
    assert segmenter.segment_boxes(np.zeros((4, 4, 3), np.uint8), np.zeros((0, 4), np.float32), size=SIZE).shape[0] == 0


def test_a_missing_package_names_the_extra(monkeypatch, checkpoint):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(ConfigError, match=r"torchvision.*masks\.segmenter=sam"):
        SegmentAnything(weights=checkpoint)


def test_wrong_files_are_refused(package, tmp_path):
    with pytest.raises(WeightsError, match="not found"):
        SegmentAnything(weights=tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        SegmentAnything(weights=tmp_path / "text.pth")
    torch.save({"head.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="not a Segment Anything checkpoint"):
        SegmentAnything(weights=tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="not a plain dict of tensors"):
        SegmentAnything(weights=tmp_path / "list.pth")
