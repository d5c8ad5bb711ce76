"""Identities over time for detectors that look at single frames: masks carried by optical flow between key frames.

On key frames the detector looks, and each detection is laid to the object whose carried mask it overlaps most. Between
two key frames the nearer one's mask is carried, forward from the earlier, backward from the later. An object whose
carried mask no longer looks like it is lost; the detector then looks at once, not only at the next key frame, and a
detection that looks like a lost object is taken for it again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from extractors.advance import advance
from extractors.errors import MissingDataError
from extractors.geometry import resize_area, resize_rgb
from extractors.mask_choice import Candidate
from extractors.packed_masks import PackedMasks
from extractors.types import Frames, Size

Bools = NDArray[np.bool_]
Floats = NDArray[np.float32]
Image = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """What a detector sees in one frame.

    Attributes:
        mask: (H, W) bool, at the size wanted.
        score: confidence in [0, 1].
        prompt: the text that found it.
    """

    mask: Bools
    score: float
    prompt: str


def rgb_frames(pixels: Frames) -> Iterator[Image]:
    """The frames as RGB (H, W, 3) uint8; a grey one, (H, W) or (H, W, 1), is given three equal channels."""
    for frame in pixels:
        image = np.asarray(frame, np.uint8)
        if image.ndim == 2:
            image = image[..., None]
        yield np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


@dataclass(frozen=True, slots=True)
class LinkRule:
    """Thresholds of `MaskLinker`; shares and similarities in [0, 1].

    Attributes:
        working_px: longer side of the frames on which flow is computed and masks are carried (true masks of ten
            simulated episodes carried over gaps of 5 and 10 frames: IoU 0.90 and 0.84 at 256, 0.93 and 0.90 at 384).
        min_iou: overlap of a detection with a carried mask from which it is the same object.
        min_look: colour histogram intersection, with the object's own, below which a carried mask has lost it.
        same_look: the same from which a detection is a lost object come back.
        max_growth: factor of area up to which a detection may differ from a lost object.
        max_misses: key frames in a row without a detection after which an object is lost.
        decay: of the score with every frame since the last detection.
    """

    working_px: int = 384
    min_iou: float = 0.3
    min_look: float = 0.35
    same_look: float = 0.6
    max_growth: float = 3.0
    max_misses: int = 3
    decay: float = 0.98


@dataclass(slots=True, eq=False)
class _Object:
    """One identity.

    Attributes:
        prompt: the text that found it.
        number: in order of appearance.
        look: colour histogram when last detected.
        area: pixels of its working mask when last detected.
        mask: (h, w) float32, coverage of the working mask carried to the current frame; None while lost.
        score: of the last detection.
        age: frames since then.
        misses: key frames since then.
    """

    prompt: str
    number: int
    look: Floats
    area: float
    mask: Floats | None
    score: float
    age: int = 0
    misses: int = 0
    masks: PackedMasks = field(default_factory=lambda: PackedMasks((1, 1), 0))
    scores: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


@dataclass(slots=True, eq=False)
class _Past:
    """A frame since the last key frame: its index, colours, and flow (h, w, 2) from the frame after to it reversed."""

    frame: int
    colour: Image
    to_next: Floats | None = None


class MaskLinker:
    """Candidates of a clip from a detector of single frames; see the module's text."""

    def __init__(
        self,
        detect: Callable[[Image], Sequence[Detection]],
        *,
        size: Size,
        every: int = 5,
        max_objects: int = 16,
        rule: LinkRule | None = None,
    ) -> None:
        """What to link.

        Args:
            detect: detections in one RGB frame (H, W, 3) uint8 of the clip, masks at `size`.
            size: (height, width) of the masks.
            every: the detector looks at every so many frames.
            max_objects: identities in all; later ones are not begun.
            rule: thresholds; None: `LinkRule()`.
        """
        self._detect, self._size, self._every, self._max_objects = detect, size, every, max_objects
        self._rule = rule or LinkRule()
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)

    def link(self, frames: Iterable[Image], n_frames: int) -> list[Candidate]:
        """Candidates ordered by prompt (as first found) and confidence.

        Args:
            frames: RGB (H, W, 3) uint8, iterated once.
            n_frames: T, how many there are.

        Raises:
            MissingDataError: another number of frames came.
        """
        objects: list[_Object] = []
        past: list[_Past] = []
        since_look = 0
        done = 0
        for frame, image in enumerate(frames):
            if frame >= n_frames:
                done += 1
                break
            colour = self._reduced(image)
            if past:
                self._carry(objects, past[-1].colour, colour)
                past[-1].to_next = self._between(past[-1].colour, colour)
            since_look += 1
            lost = self._lose(objects, colour)
            # A lost object is looked for at once, but a detector is not run twice in a row for it.
            if frame == 0 or since_look >= self._every or frame == n_frames - 1 or (lost and since_look >= 2):
                self._key_frame(objects, self._detect(image), colour, past, frame, n_frames)
                past, since_look = [], 0
            self._record(objects, frame)
            past.append(_Past(frame, colour))
            done += 1
            advance(done, n_frames)
        if done != n_frames:
            raise MissingDataError(f"{n_frames} frames were announced and {done} came; check the source")
        order = list(dict.fromkeys(each.prompt for each in objects))
        objects.sort(key=lambda each: (order.index(each.prompt), -float(each.scores.sum()), each.number))
        return [Candidate(each.masks, each.scores, each.prompt, f"object {each.number}") for each in objects]

    # --- carrying ----------------------------------------------------------------------------------------------------

    def _reduced(self, image: Image) -> Image:
        height, width = image.shape[:2]
        # Flow is better of an enlarged frame than of a small one: its patches have a size in pixels.
        factor = min(self._rule.working_px / max(height, width), 4.0)
        # The flow refuses images smaller than its patches.
        size = max(round(height * factor), 24), max(round(width * factor), 24)
        return resize_rgb(image, size)

    def _between(self, target: Image, source: Image) -> Floats:
        """Flow (h, w, 2): where in `source` each pixel of `target` is found."""
        grey = [np.asarray(cv2.cvtColor(each, cv2.COLOR_RGB2GRAY), np.uint8) for each in (target, source)]
        return np.asarray(self._flow.calc(grey[0], grey[1], np.zeros((*grey[0].shape, 2), np.float32)), np.float32)

    def _carry(self, objects: Sequence[_Object], before: Image, now: Image) -> None:
        alive = [each for each in objects if each.mask is not None]
        if not alive:
            return
        flow = self._between(now, before)
        for each in alive:
            assert each.mask is not None
            each.mask = _warped(each.mask, flow)
            each.age += 1

    def _lose(self, objects: Sequence[_Object], colour: Image) -> bool:
        """Lets go of objects whose carried mask no longer looks like them; whether there were any."""
        lost = False
        for each in objects:
            if each.mask is None or not each.age:
                continue
            mask = each.mask > 0.5
            if not mask.any() or _likeness(_look(colour, mask), each.look) < self._rule.min_look:
                each.mask, lost = None, True
        return lost

    def _record(self, objects: Sequence[_Object], frame: int) -> None:
        for each in objects:
            # On a key frame the detector's own mask is there already.
            if each.mask is not None and each.age:
                self._write(each, frame, each.mask, each.score * self._rule.decay**each.age)

    def _write(self, each: _Object, frame: int, mask: Floats, score: float) -> None:
        at_size = resize_area(mask, self._size) > 0.5
        each.masks[frame] = at_size
        each.scores[frame] = score if at_size.any() else 0.0

    # --- key frames --------------------------------------------------------------------------------------------------

    def _key_frame(
        self,
        objects: list[_Object],
        detections: Sequence[Detection],
        colour: Image,
        past: Sequence[_Past],
        frame: int,
        n_frames: int,
    ) -> None:
        size = (int(colour.shape[0]), int(colour.shape[1]))
        masks = [_covered(each.mask, size) for each in detections]
        pairs = self._matched(objects, detections, masks, colour)
        for index in sorted(range(len(detections)), key=lambda i: -detections[i].score):
            if index not in pairs and len(objects) < self._max_objects and masks[index].any():
                objects.append(self._begun(detections[index], len(objects), n_frames))
                pairs[index] = objects[-1]
        found = {each.number for each in pairs.values()}
        for each in objects:
            if each.number not in found and each.mask is not None:
                each.misses += 1
                if each.misses >= self._rule.max_misses:
                    each.mask = None
        for index, each in pairs.items():
            self._found(each, detections[index], masks[index], colour, past, frame)

    def _matched(
        self, objects: Sequence[_Object], detections: Sequence[Detection], masks: Sequence[Floats], colour: Image
    ) -> dict[int, _Object]:
        """Detection index -> object, each object once: by overlap those that are followed, by look those that are lost.

        Overlap comes first: the best pair of all, then the best of what is left.
        """
        rule = self._rule
        pairs: dict[int, _Object] = {}
        rows = [
            (_iou(mask, each.mask), index, each)
            for index, (detection, mask) in enumerate(zip(detections, masks, strict=True))
            for each in objects
            if each.prompt == detection.prompt and each.mask is not None
        ]
        taken: set[int] = set()
        for iou, index, each in sorted(rows, key=lambda row: (-row[0], row[1], row[2].number)):
            if iou >= rule.min_iou and index not in pairs and each.number not in taken:
                pairs[index] = each
                taken.add(each.number)
        for index, (detection, mask) in enumerate(zip(detections, masks, strict=True)):
            if index in pairs or not mask.any():
                continue
            look, area = _look(colour, mask > 0.5), float(mask.sum())
            lost = [
                (_likeness(look, each.look), each)
                for each in objects
                if each.mask is None and each.prompt == detection.prompt and each.number not in taken
                if max(area, each.area) <= rule.max_growth * min(area, each.area)
            ]
            best = max(lost, key=lambda row: row[0], default=None)
            if best is not None and best[0] >= rule.same_look:
                pairs[index] = best[1]
                taken.add(best[1].number)
        return pairs

    def _begun(self, detection: Detection, number: int, n_frames: int) -> _Object:
        return _Object(
            prompt=detection.prompt,
            number=number,
            look=np.zeros(512, np.float32),
            area=0.0,
            mask=None,
            score=detection.score,
            masks=PackedMasks(self._size, n_frames),
            scores=np.zeros(n_frames, np.float32),
        )

    def _found(
        self,
        each: _Object,
        detection: Detection,
        mask: Floats,
        colour: Image,
        past: Sequence[_Past],
        frame: int,
    ) -> None:
        was_followed = each.mask is not None
        each.look, each.area = _look(colour, mask > 0.5), float(mask.sum())
        each.score, each.mask, each.age, each.misses = detection.score, mask, 0, 0
        each.masks[frame], each.scores[frame] = detection.mask, detection.score
        # Back to the middle of the gap if it was carried up to here, else as far as it looks like itself.
        back = past[(len(past) + 1) // 2 :] if was_followed else past[1:]
        for steps, earlier in enumerate(reversed(back), start=1):
            assert earlier.to_next is not None
            mask = _warped(mask, earlier.to_next)
            shown = mask > 0.5
            if not shown.any() or _likeness(_look(earlier.colour, shown), each.look) < self._rule.same_look:
                break
            self._write(each, earlier.frame, mask, detection.score * self._rule.decay**steps)


def _warped(mask: Floats, flow: Floats) -> Floats:
    """`mask` (h, w) seen from another frame; `flow` (h, w, 2) says where each of its pixels is found in the mask's."""
    height, width = mask.shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    moved = cv2.remap(mask, x + flow[..., 0], y + flow[..., 1], cv2.INTER_LINEAR, borderValue=0.0)
    # Every step blurs the border a little; without this an object would melt away over a gap.
    return np.asarray(np.clip((np.asarray(moved) - 0.5) * 1.5 + 0.5, 0.0, 1.0), np.float32)


def _covered(mask: Bools, size: Size) -> Floats:
    """Coverage (h, w) in [0, 1]; of a mask too small to cover half a pixel, its most covered ones count as whole."""
    covered = resize_area(mask, size)
    most = float(covered.max())
    return np.asarray(covered if most > 0.5 or most == 0 else covered >= most, np.float32)


def _look(colour: Image, mask: Bools) -> Floats:
    """Histogram (512,) of the masked pixels, 8 bins a channel, summing to 1; zeros for no pixels."""
    red, green, blue = (colour[mask] // 32).astype(np.int64).T
    histogram = np.bincount(64 * red + 8 * green + blue, minlength=512).astype(np.float32)
    return np.asarray(histogram / max(float(histogram.sum()), 1.0), np.float32)


def _likeness(one: Floats, other: Floats) -> float:
    return float(np.minimum(one, other).sum())


def _iou(one: Floats, other: Floats) -> float:
    union = float(np.maximum(one, other).sum())
    return float(np.minimum(one, other).sum()) / union if union else 0.0
