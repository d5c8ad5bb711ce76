"""Which of several proposed masks is the manipulated object: the one that overlaps most with what `nano` sees as it.

A text detector answers a prompt with anything that fits the words. What is handled shows in the whole clip: the small
network (backends/nano) gives every pixel a share of being the handled object's. The detector draws the mask, the
network only says which.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import LengthMismatchError
from extractors.geometry import resize_area
from extractors.moments import picked
from extractors.types import Frames

ChooseBy = Literal["best", "first"]

SAME = 0.6
"""Overlap from which two candidates are one region under two names, not rivals."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """What may be the object.

    Attributes:
        masks: T masks (H, W) bool, an array or lazy.
        confidence: (T,) float32 in [0, 1], the detector's, 0 in frames without a mask.
        prompt: the text that found it, "" without one.
        name: tells candidates of one prompt apart.
    """

    masks: Frames
    confidence: NDArray[np.float32]
    prompt: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Handled:
    """What is known of where the handled object is.

    Attributes:
        at: (M,) numbers of the frames that were looked at, rising.
        shares: (M, h, w) of each pixel in [0, 1] of being the object's.
    """

    at: NDArray[np.int64]
    shares: NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The answer, and what it rests on.

    Attributes:
        index: of the chosen candidate, None where there is none to choose from.
        scores: of the candidates, in their order, in [0, 1].
        margin: the chosen one's lead over the best that is not (nearly) the same region, its own score without one.
    """

    index: int | None
    scores: tuple[float, ...]
    margin: float

    def report(self, candidates: Sequence[Candidate]) -> dict[str, Any]:
        """JSON types: the chosen prompt, all candidates best first, the margin."""
        order = sorted(range(len(self.scores)), key=lambda i: (i != self.index, -self.scores[i]))
        rows = [
            {"prompt": candidates[i].prompt, "name": candidates[i].name, "score": round(self.scores[i], 4)}
            for i in order
        ]
        chosen = None if self.index is None else candidates[self.index].prompt
        return {"prompt": chosen, "candidates": rows, "margin": round(self.margin, 4)}


def choose_first(candidates: Sequence[Candidate]) -> Choice:
    """The first candidate that is there at all; scores are the detector's mean confidences."""
    scores = tuple(float(np.mean(each.confidence)) for each in candidates)
    first = next(iter(_shown(candidates)), None)
    return Choice(first, scores, 0.0 if first is None else scores[first])


def choose_handled(candidates: Sequence[Candidate], handled: Handled) -> Choice:
    """The candidate that overlaps most with the handled object's shares over the whole clip.

    Scores are sums of the smaller over sums of the larger of a mask's coverage and the share, of all pixels of the
    moments: intersection over union of soft masks. Of equal ones the detector's confidence decides.

    Returns:
        A Choice; index None where no candidate has a pixel.

    Raises:
        LengthMismatchError: a candidate has fewer frames than were looked at.
    """
    size = handled.shares.shape[1:]
    covers: list[NDArray[np.float16]] = []
    for index, each in enumerate(candidates):
        masks = [resize_area(np.asarray(mask, np.bool_), size) for mask in picked(each.masks, handled.at)]
        if len(masks) != len(handled.at):
            raise LengthMismatchError(
                f"candidate {index} has {len(each.masks)} masks and the clip was looked at until frame {handled.at[-1]}"
            )
        covers.append(np.asarray(masks, np.float16))
    scores = tuple(_overlap(cover, handled.shares) for cover in covers)
    shown = _shown(candidates)
    if not shown:
        return Choice(None, scores, 0.0)
    best = max(shown, key=lambda index: (scores[index], float(np.mean(candidates[index].confidence))))
    rivals = [scores[i] for i in shown if i != best and _overlap(covers[i], covers[best]) < SAME]
    return Choice(best, scores, scores[best] - max(rivals, default=0.0))


def _shown(candidates: Sequence[Candidate]) -> list[int]:
    return [index for index, each in enumerate(candidates) if any(mask.any() for mask in each.masks)]


def _overlap(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> float:
    """Of soft masks (M, h, w) in [0, 1]; 0 where both are empty."""
    # A moment at a time: long clips have hundreds, and sums of half precision would overflow.
    shared = sum(float(np.minimum(a, b).sum(dtype=np.float32)) for a, b in zip(one, other, strict=True))
    either = sum(float(np.maximum(a, b).sum(dtype=np.float32)) for a, b in zip(one, other, strict=True))
    return shared / either if either else 0.0
