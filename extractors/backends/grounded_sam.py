"""Grounding DINO for boxes from text, Segment Anything for masks from boxes, optical flow between: all open weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from extractors.backends.devices import arithmetic
from extractors.backends.mask_cleanup import clean_mask, keep_distinct
from extractors.backends.pretrained import (
    HalfPrecision,
    check_transformers,
    choose_precision,
    load_pretrained,
    load_tokenizer,
)
from extractors.backends.prompted import Found, PromptedSegmenter
from extractors.backends.segment_anything import BoxSegmenter, SegmentAnything, TransformersSam, normalized
from extractors.errors import ConfigError
from extractors.mask_linking import Detection, MaskLinker, rgb_frames
from extractors.types import Frames, Size

_ADVICE = (
    "get IDEA-Research/grounding-dino-tiny (Apache-2.0, open) with `cuepack models fetch grounding-dino-tiny`, or name "
    "a local copy with masks.detector_weights; masks.backend=nano needs no weights"
)

SEPARATORS = (101, 102, 1012, 1029)
"""BERT's [CLS], [SEP], "." and "?", between which Grounding DINO takes a phrase to stand."""


class GroundedSam(PromptedSegmenter):
    """Masks by Grounding DINO and Segment Anything; see the module's text."""

    backend = "grounded-sam"

    def __init__(
        self,
        *,
        weights: Path,
        detector_weights: Path,
        segmenter: str = "sam",
        device: str = "auto",
        precision: HalfPrecision = "auto",
        threshold: float | None = None,
        max_iou: float = 0.7,
        **settings: Any,
    ) -> None:
        """Loads both models.

        Args:
            weights: of the segmenter: a folder for "sam", a .pth file for "segment-anything".
            detector_weights: folder of Grounding DINO.
            segmenter: "sam" or "segment-anything"; see `BoxSegmenter`.
            device: "auto" (CUDA where there is one), "cpu", "cuda", ...
            precision: see `HalfPrecision`; the detector always computes in fp32, which its attention needs.
            threshold: least score of a box; none: 0.25, the published one.
            max_iou: of two masks of one prompt that overlap more, the better scored stays.
            settings: of `PromptedSegmenter`.

        Raises:
            ConfigError: a setting is unknown, or a package is missing.
            WeightsError: weights are missing, damaged or another model's.
        """
        super().__init__(**settings)
        self.device, self.precision, _ = choose_precision(precision, device)
        self.threshold, self.max_iou = 0.25 if threshold is None else threshold, max_iou
        self.detector = GroundingDino(weights=Path(detector_weights), device=device)
        self.segmenter: BoxSegmenter
        if segmenter == "sam":
            self.segmenter = TransformersSam(weights=Path(weights), device=device, precision=precision)
        elif segmenter == "segment-anything":
            self.segmenter = SegmentAnything(weights=Path(weights), device=device)
        else:
            raise ConfigError(f"no segmenter {segmenter!r}; choose sam or segment-anything")
        self.precision = self.segmenter.precision

    def propose(self, pixels: Frames, prompts: Sequence[str], *, size: Size) -> Found:
        """See `PromptedSegmenter.propose`."""
        query = self.detector.query(prompts)
        detect = partial(self._detect, query=query, prompts=prompts, size=size)
        linker = MaskLinker(detect, size=size, every=self.every, max_objects=self.max_objects)
        candidates = linker.link(rgb_frames(pixels), len(pixels))
        # The detector may see them in another order than they were asked for.
        candidates.sort(key=lambda each: prompts.index(each.prompt))
        cut = [prompts[index][:60] for index in query.cut]
        return Found(tuple(candidates), {"prompts_cut": {"tokens": query.most, "prompts": cut}} if cut else {})

    def _detect(self, image: NDArray[np.uint8], *, query: Query, prompts: Sequence[str], size: Size) -> list[Detection]:
        boxes, scores, owners = self.detector.detect(image, query, threshold=self.threshold, most=4 * self.max_objects)
        masks = self.segmenter.segment_boxes(image, boxes, size=size)
        found = []
        for owner, prompt in enumerate(prompts):
            mine = np.flatnonzero(owners == owner)
            if not len(mine):
                continue
            kept = keep_distinct(
                torch.from_numpy(masks[mine]),
                torch.from_numpy(scores[mine]),
                max_iou=self.max_iou,
                most=self.max_objects,
            )
            for index in mine[kept.numpy()]:
                mask = clean_mask(masks[index], max_area=16)
                if mask.any():
                    found.append(Detection(mask, float(scores[index]), prompt))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Query:
    """Prompts as tokens.

    Attributes:
        ids: (1, L) int64, [CLS] phrase . phrase . [SEP].
        spans: of each prompt, first token and one past the last; empty where nothing of it is known.
        cut: indices of the prompts that were too long.
        most: tokens granted to each prompt.
    """

    ids: Tensor
    spans: tuple[tuple[int, int], ...]
    cut: tuple[int, ...]
    most: int


class GroundingDino:
    """Boxes from text by Grounding DINO (Liu et al. 2023), all prompts in one pass."""

    def __init__(self, *, weights: Path, device: str = "auto") -> None:
        """Loads the weights from a folder.

        Raises:
            ConfigError: `transformers` is missing, or there is no such device.
            WeightsError: the weights are missing, damaged or another model's.
        """
        check_transformers("grounded-sam", "GroundingDinoForObjectDetection")
        from transformers import AutoTokenizer, GroundingDinoForObjectDetection

        self.device, _, dtype = choose_precision("fp32", device)
        self.model = load_pretrained(
            GroundingDinoForObjectDetection, weights, model_types=("grounding-dino",), advice=_ADVICE, dtype=dtype
        ).to(self.device)
        words = int(self.model.config.text_config.vocab_size)
        self.tokenizer = load_tokenizer(AutoTokenizer, weights, _ADVICE, most_words=words)
        self.shortest, self.longest = _edges(weights)

    def query(self, prompts: Sequence[str]) -> Query:
        """The prompts as one text; each gets an equal share of the model's length, and what is longer is cut."""
        length = min(int(self.model.config.max_text_len), int(self.model.config.text_config.max_position_embeddings))
        most = max((length - 2) // max(len(prompts), 1) - 1, 1)
        start, end, dot = SEPARATORS[:3]
        ids, spans, cut = [start], [], []
        for index, prompt in enumerate(prompts):
            # A token is at least a character; only the beginning of a text of any length is looked at.
            made = self.tokenizer(prompt.lower()[: 64 * most], add_special_tokens=False, verbose=False)["input_ids"]
            words = [each for each in made if each not in SEPARATORS]
            if len(words) > most or len(prompt) > 64 * most:
                cut.append(index)
            spans.append((len(ids), len(ids) + len(words[:most])))
            ids += [*words[:most], dot]
        return Query(torch.tensor([[*ids, end]], device=self.device), tuple(spans), tuple(cut), most)

    def detect(
        self, image: NDArray[np.uint8], query: Query, *, threshold: float, most: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """Boxes of one RGB image (H, W, 3) uint8, best first.

        Args:
            image: RGB.
            query: from `query`.
            threshold: least score.
            most: boxes at most.

        Returns:
            (N, 4) boxes (x0, y0, x1, y1) in pixels, edges counted; (N,) scores in [0, 1]; (N,) index of the prompt.
            A box that answers several prompts comes once for each.
        """
        height, width = image.shape[:2]
        pixels = normalized(image, self._size(height, width), self.device)
        with arithmetic("fp32", self.device):
            out = self.model(
                pixel_values=pixels,
                pixel_mask=torch.ones(pixels.shape[0], *pixels.shape[2:], dtype=torch.long, device=self.device),
                input_ids=query.ids,
                attention_mask=torch.ones_like(query.ids),
                token_type_ids=torch.zeros_like(query.ids),
            )
        tokens = out.logits[0].float().sigmoid()  # (queries, tokens)
        scores = torch.stack(
            [
                tokens[:, first:last].amax(-1) if last > first else torch.zeros_like(tokens[:, 0])
                for first, last in query.spans
            ],
            dim=1,
        )
        which, owners = torch.nonzero(scores > threshold, as_tuple=True)
        order = torch.argsort(scores[which, owners], descending=True, stable=True)[:most]
        which, owners = which[order], owners[order]
        cx, cy, w, h = out.pred_boxes[0, which].float().unbind(-1)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1).clamp(0, 1)
        boxes = corners * torch.tensor([width, height, width, height], device=self.device)
        return (
            boxes.cpu().numpy().astype(np.float32),
            scores[which, owners].cpu().numpy().astype(np.float32),
            owners.cpu().numpy(),
        )

    def _size(self, height: int, width: int) -> Size:
        """The shorter edge as published, unless the longer one would grow beyond its limit."""
        shorter: float = self.shortest
        if max(height, width) / min(height, width) * shorter > self.longest:
            shorter = self.longest * min(height, width) / max(height, width)
        scale = shorter / min(height, width)
        return max(int(height * scale), 1), max(int(width * scale), 1)


def _edges(folder: Path) -> tuple[int, int]:
    """Shortest and longest edge of the images that the model sees, from preprocessor_config.json or as published."""
    try:
        size = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))["size"]
        return int(size["shortest_edge"]), int(size["longest_edge"])
    except (OSError, ValueError, KeyError, TypeError):
        return 800, 1333
