"""Masks from boxes by Segment Anything: the `transformers` port, or Meta's package for the original .pth files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everyone uses
from numpy.typing import NDArray

from extractors.backends.checkpoints import read_state
from extractors.backends.devices import arithmetic, choose_device
from extractors.backends.mask_cleanup import masks_at_size
from extractors.backends.pretrained import HalfPrecision, check_transformers, choose_precision, load_pretrained
from extractors.errors import ConfigError, WeightsError
from extractors.geometry import resize_mask
from extractors.types import Size

BoxSegmenterName = Literal["sam", "segment-anything"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""Width of the image encoder -> name in the package's registry."""

_SAM_ADVICE = (
    "get facebook/sam-vit-base (Apache-2.0, open) with `cuepack models fetch sam-vit-base`, or name a local copy with "
    "masks.weights; masks.backend=nano needs no weights"
)
_PACKAGE_ADVICE = (
    "masks.segmenter=segment-anything wants one of Meta's files sam_vit_b_01ec64.pth, sam_vit_l_0b3195.pth or "
    "sam_vit_h_4b8939.pth (Apache-2.0) named with masks.weights; masks.segmenter=sam takes the hub's folder instead"
)


class BoxSegmenter(Protocol):
    """Finds the thing in a box."""

    precision: str

    def segment_boxes(self, image: NDArray[np.uint8], boxes: NDArray[np.float32], *, size: Size) -> NDArray[np.bool_]:
        """Masks (N, height, width) at `size` of the things in `boxes` (N, 4) as (x0, y0, x1, y1).

        `image` (H, W, 3) uint8 RGB; boxes in its pixels, edges of pixels counted, so that the whole is (0, 0, W, H).
        """
        ...


class TransformersSam:
    """Segment Anything of `transformers`; prepares and reads images without its processor."""

    def __init__(self, *, weights: Path, device: str = "auto", precision: HalfPrecision = "auto") -> None:
        """Loads the weights.

        Raises:
            ConfigError: `transformers` is missing, or there is no such device or precision.
            WeightsError: see `load_pretrained`.
        """
        check_transformers("grounded-sam", "SamModel")
        from transformers import SamModel

        self.device, self.precision, self._dtype = choose_precision(precision, device)
        self.model = load_pretrained(
            SamModel, Path(weights), model_types=("sam",), advice=_SAM_ADVICE, dtype=self._dtype
        ).to(self.device)
        self.side = int(self.model.config.vision_config.image_size)

    def segment_boxes(self, image: NDArray[np.uint8], boxes: NDArray[np.float32], *, size: Size) -> NDArray[np.bool_]:
        """See `BoxSegmenter`."""
        if not len(boxes):
            return np.zeros((0, *size), np.bool_)
        scale = self.side / max(image.shape[:2])
        height, width = (int(each * scale + 0.5) for each in image.shape[:2])
        pixels = normalized(image, (height, width), self.device)
        pixels = F.pad(pixels, (0, self.side - width, 0, self.side - height))
        places = torch.from_numpy(np.asarray(boxes, np.float32) * scale)[None].to(self.device)
        with arithmetic("fp32", self.device):  # the weights' own dtype decides, not autocast
            out = self.model(
                pixel_values=pixels.to(self._dtype), input_boxes=places.to(self._dtype), multimask_output=False
            )
            logits = out.pred_masks[0, :, :1].float()  # (N, 1, h, w), of the padded square
            logits = F.interpolate(logits, (self.side, self.side), mode="bilinear", align_corners=False)
            return masks_at_size(logits[:, 0, :height, :width], size)


class SegmentAnything:
    """Meta's `segment_anything` package, for checkpoints in its own format; it imports torchvision."""

    precision = "fp32"

    def __init__(self, *, weights: Path, device: str = "auto") -> None:
        """Loads the weights; which of the three sizes it is shows in them.

        Raises:
            ConfigError: the package is missing.
            WeightsError: the file is missing, or no Segment Anything checkpoint.
        """
        try:
            from segment_anything import SamPredictor, sam_model_registry
        except ImportError as error:
            raise ConfigError(
                f"masks.segmenter=segment-anything needs the segment-anything package and torchvision ({error}); "
                "install cuepack's extra `segment-anything`, or set masks.segmenter=sam"
            ) from error
        self.device = choose_device(device)
        if not Path(weights).is_file():
            raise WeightsError(f"weights for segment-anything not found: {weights}; {_PACKAGE_ADVICE}")
        state = read_state(Path(weights), _PACKAGE_ADVICE)
        try:
            model = sam_model_registry[_WIDTHS[int(state["image_encoder.pos_embed"].shape[-1])]]()
            model.load_state_dict(state, strict=True)
        except (KeyError, RuntimeError, AttributeError) as error:
            first_line = str(error).splitlines()[0][:200]
            raise WeightsError(
                f"{weights} is not a Segment Anything checkpoint ({first_line}); {_PACKAGE_ADVICE}"
            ) from error
        self._predictor: Any = SamPredictor(model.to(self.device).eval())

    def segment_boxes(self, image: NDArray[np.uint8], boxes: NDArray[np.float32], *, size: Size) -> NDArray[np.bool_]:
        """See `BoxSegmenter`."""
        if not len(boxes):
            return np.zeros((0, *size), np.bool_)
        with arithmetic("fp32", self.device):
            self._predictor.set_image(image)
            places = torch.from_numpy(np.asarray(boxes, np.float32)).to(self.device)
            places = self._predictor.transform.apply_boxes_torch(places, image.shape[:2])
            masks, _, _ = self._predictor.predict_torch(
                point_coords=None, point_labels=None, boxes=places, multimask_output=False
            )
        found = masks[:, 0].cpu().numpy() > 0
        return np.stack([resize_mask(mask, size) for mask in found])


def normalized(image: NDArray[np.uint8], size: Size, device: torch.device) -> torch.Tensor:
    """(1, 3, height, width) float32, resized with antialiasing, ImageNet's mean and deviation taken out."""
    tensor = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None].float()
    resized = F.interpolate(tensor, size, mode="bilinear", align_corners=False, antialias=True)
    mean, std = (torch.tensor(each, device=device).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
    # The published preprocessing resizes bytes: rounded before it is scaled.
    return (resized.round().clamp(0, 255) / 255 - mean) / std
