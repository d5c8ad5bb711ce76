"""Which of several proposed masks is the manipulated object: what the episode shows decides.

A text detector answers a prompt with anything that fits the words. The clip says more: the manipulated object lies
still while the robot comes, the robot is beside it when it starts to move, it then moves with what touches it, and
while the gripper is closed rather than open. The arm moves first and all along, a distractor never moves, noise jumps.
Each of these is a cue in [0, 1]; their weighted geometric mean is the candidate's score, so that one cue near 0 is not
bought back by the others. A cue that the clip says nothing about is left out and its weight falls to the others.

The clip is looked at in moments (moments.py), and the rules are shares of the clip and of the frame's width, so that
neither frame rate nor size matters. They were set on the episodes of tests/benchmarks/mask_choice.py, which also says
why further cues (what moves beside it, its size, the steadiness of its outline, how often it is seen) are not here:
without them the same candidates are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, LengthMismatchError
from extractors.mask_watching import Behaviour, Candidate, ChoiceRule, is_same, watch
from extractors.moments import RATE, moments
from extractors.types import Frames

ChooseBy = Literal["best", "first"]

Floats = NDArray[np.float32]

LATE = 0.4
"""The cue `still_before` of a mask that is first seen moving."""

SETTLING = 10
"""Things may settle in one part of so many of a clip; rest and motion are looked for over as long."""

BUSY = 0.002
"""Share of the frame that moves once the clip has begun: a gripper's, seen from afar."""


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The answer, and what it rests on.

    Attributes:
        index: of the chosen candidate, None where there is none to choose from.
        scores: of the candidates, in their order, in [0, 1].
        cues: of the candidates, in their order; None where the clip does not tell.
        margin: the chosen one's lead over the best that is not (nearly) the same region, its own score without one.
    """

    index: int | None
    scores: tuple[float, ...]
    cues: tuple[Mapping[str, float | None], ...]
    margin: float

    def report(self, candidates: Sequence[Candidate], *, most: int = 50) -> dict[str, Any]:
        """JSON types: chosen prompt, all candidates best first with their cues, margin; cues of the first `most`."""
        order = sorted(range(len(self.scores)), key=lambda i: (i != self.index, -self.scores[i]))
        rows = [
            {
                "prompt": candidates[i].prompt,
                "name": candidates[i].name,
                "score": round(self.scores[i], 4),
                **({"cues": dict(self.cues[i])} if place < most and self.cues[i] else {}),
            }
            for place, i in enumerate(order)
        ]
        chosen = candidates[self.index] if self.index is not None else None
        return {
            "prompt": chosen.prompt if chosen else None,
            "candidates": rows,
            "margin": round(self.margin, 4),
        }


def choose_candidate(
    candidates: Sequence[Candidate],
    frames: Frames,
    gripper: NDArray[Any] | None = None,
    *,
    fps: float = RATE,
    by: ChooseBy = "best",
    robot: Frames | None = None,
    rule: ChoiceRule | None = None,
) -> Choice:
    """The candidate that behaves as a manipulated object.

    Args:
        candidates: each with T masks, all of one size.
        frames: T RGB frames (H, W, 3) uint8 of any size, iterated twice.
        gripper: (T,) opening, 1 open, 0 closed; None or constant: the cue is left out.
        fps: frames a second.
        by: "best" score; "first" takes the first candidate that is there at all, unscored.
        robot: T masks of the robot, of the candidates' size, where they are known.
        rule: weights and thresholds; None: `ChoiceRule()`.

    Returns:
        A Choice; index None where no candidate has a pixel in any frame.

    Raises:
        ConfigError: `by` is neither.
        LengthMismatchError: masks, confidences, frames and gripper are not of one length.
    """
    if by not in ("best", "first"):
        raise ConfigError(f"candidates are chosen by 'best' or 'first', got {by!r}")
    rule = rule or ChoiceRule()
    _check_lengths(candidates, frames, gripper)
    shown = [index for index, each in enumerate(candidates) if any(mask.any() for mask in each.masks)]
    if not shown or by == "first":
        first = shown[0] if shown else None
        scores = tuple(float(np.mean(each.confidence)) for each in candidates)
        return Choice(first, scores, ({},) * len(candidates), 0.0 if first is None else scores[first])
    at = moments(frames, fps)
    behaviours, share = watch(candidates, frames, at, rule)
    opening = None if gripper is None else np.asarray(gripper, float)[at]
    cues = tuple(
        {**_cues(each, share, opening, rule), "not_robot": _not_robot(candidate, robot)}
        for each, candidate in zip(behaviours, candidates, strict=True)
    )
    scores = tuple(_score(each, rule) if index in set(shown) else 0.0 for index, each in enumerate(cues))
    best = max(shown, key=lambda index: scores[index])
    rivals = [scores[i] for i in shown if i != best and not is_same(behaviours[i], behaviours[best])]
    return Choice(best, scores, cues, scores[best] - max(rivals, default=0.0))


def _check_lengths(candidates: Sequence[Candidate], frames: Frames, gripper: NDArray[Any] | None) -> None:
    lengths = {"frames": len(frames)}
    if gripper is not None:
        lengths["gripper"] = len(gripper)
    for index, each in enumerate(candidates):
        lengths[f"masks of candidate {index}"] = len(each.masks)
        lengths[f"confidence of candidate {index}"] = len(each.confidence)
    if len(set(lengths.values())) > 1:
        raise LengthMismatchError(f"candidates, frames and gripper must have one length, got {lengths}")


def _cues(
    behaviour: Behaviour, share: Floats, opening: NDArray[Any] | None, rule: ChoiceRule
) -> dict[str, float | None]:
    """Cue name -> value in [0, 1], None where the clip does not tell."""
    onset, rest = _onset(behaviour, share)
    values: dict[str, float | None] = {
        "still_before": rest,
        "moves": _moves(behaviour, onset, rule),
        "with_gripper": _with_gripper(behaviour, opening, rule),
        "inside": 1.0 - 0.7 * float(behaviour.at_border[behaviour.shown].mean()) if behaviour.shown.any() else 0.0,
        "follows": _follows(behaviour, rule),
        "same_look": _same_look(behaviour),
    }
    return {name: None if value is None else round(float(value), 4) for name, value in values.items()}


def _score(cues: Mapping[str, float | None], rule: ChoiceRule) -> float:
    defined = {name: value for name, value in cues.items() if value is not None and rule.weights.get(name, 0) > 0}
    total = sum(rule.weights[name] for name in defined)
    if not total:
        return 0.0
    return float(
        np.exp(sum(rule.weights[name] * np.log(max(value, rule.floor)) for name, value in defined.items()) / total)
    )


def _onset(behaviour: Behaviour, share: Floats) -> tuple[int | None, float]:
    """The moment at which it starts to move for good, None if it never does; how well it rested before, 0 to 1.

    The split into rest and motion that fits best: rests as long as other things move already, then moves. Things may
    still settle in the first tenth of a clip (they do in simulators); that is not held against them. Where the mask is
    first seen moving, the clip does not tell, which is worth less than rest that was seen.
    """
    tenth = -(-len(share) // SETTLING)
    busy = np.flatnonzero(share > BUSY)
    first = max(int(busy[0]) if len(busy) else 0, len(share) // SETTLING)
    seen = np.isfinite(behaviour.moving)
    moving = np.where(seen, behaviour.moving, 0.0)
    best: tuple[int | None, float] = (None, 0.0)
    best_fit = 0.0
    for onset in np.flatnonzero(moving > 0.5).tolist():
        ahead = slice(onset, onset + tenth)
        lasts = float(moving[ahead].sum()) / max(int(seen[ahead].sum()), 2)
        before = seen[first:onset]
        if before.any():
            rest = float(1.0 - moving[first:onset][before].mean()) * min((onset - first) / tenth, 1.0)
        else:
            rest = LATE if np.flatnonzero(seen)[0] > first else 0.0
        if rest * lasts > best_fit or best[0] is None:
            best, best_fit = (onset, rest), rest * lasts
    if best[0] is None:
        return None, float(1.0 - moving[first:][seen[first:]].mean()) if seen[first:].any() else 0.0
    return best


def _moves(behaviour: Behaviour, onset: int | None, rule: ChoiceRule) -> float:
    """Way it goes after onset, as far as mask and image agree on it."""
    if onset is None:
        return 0.0
    steps = np.nan_to_num(behaviour.motion * behaviour.following[:, None], nan=0.0)[onset:]
    way = np.linalg.norm(np.cumsum(steps, axis=0), axis=-1).max(initial=0.0)
    return 1.0 - float(np.exp(-way / rule.travel))


def _with_gripper(behaviour: Behaviour, opening: NDArray[Any] | None, rule: ChoiceRule) -> float | None:
    """Its motion while the gripper is closed, as a share of its motion at all times; None where neither is known."""
    if opening is None or not np.isfinite(opening).any():
        return None
    low, high = np.nanmin(opening), np.nanmax(opening)
    # A gripper that hardly changes trembles: it neither opens nor closes.
    if high - low < 0.1:
        return None
    closed = np.nan_to_num(opening, nan=high) < (low + high) / 2
    speed = np.linalg.norm(behaviour.motion, axis=-1) * np.nan_to_num(behaviour.following, nan=1.0)
    means = [
        float(np.nanmean(speed[state])) if np.isfinite(speed[state]).any() else None for state in (closed, ~closed)
    ]
    if means[0] is None or means[1] is None or means[0] + means[1] < 0.1 * rule.moving:
        return None
    return means[0] / (means[0] + means[1])


def _follows(behaviour: Behaviour, rule: ChoiceRule) -> float | None:
    """How well its centre goes with the image under it, fast moments counting more."""
    seen = np.isfinite(behaviour.following)
    speed = np.linalg.norm(behaviour.motion, axis=-1)[seen] + rule.moving
    return float((behaviour.following[seen] * speed).sum() / speed.sum()) if seen.any() else None


def _not_robot(candidate: Candidate, robot: Frames | None) -> float | None:
    """Share of its pixels that are not the robot's; None where the robot is not known."""
    if robot is None:
        return None
    common = total = any_robot = 0
    for mask, arm in zip(candidate.masks, robot, strict=True):
        common, total, any_robot = common + int((mask & arm).sum()), total + int(mask.sum()), any_robot + int(arm.any())
    return round(1.0 - common / total, 4) if total and any_robot else None


def _same_look(behaviour: Behaviour) -> float | None:
    """How much its colours stay the same: mean intersection with their mean histogram."""
    if not behaviour.colours:
        return None
    stack = np.stack(behaviour.colours)
    return float(np.minimum(stack, stack.mean(axis=0)).sum(axis=1).mean())
