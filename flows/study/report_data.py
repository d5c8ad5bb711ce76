"""What a report of a study shows, as plain values: the comparison fills it, the report draws it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.study.latents import Probe

STATIC = "static"
"""Name beside the models' own: the last given frame, repeated."""

GLOBAL, SAME = "global", "same"
"""Where a predicted latent's nearest frame was looked for: in the bank of all episodes, or in its own episode."""

ERRORS = ("teacher_forced", "rolled_out", "copy", "constant")
"""Names of a condition's errors, each divided by the variance of the held-out latents."""


@dataclass(frozen=True, slots=True)
class ConditionRow:
    """One condition of the comparison, over all its seeds that did not diverge. None: not measured.

    Attributes:
        name: as on the command line ("C-8").
        label: what it is, in a few words.
        verdict: "helps", "regularises only", "nothing", "cannot tell", or what it is instead ("baseline", "control").
        change, low, high: error relative to A, less 1, and its interval: -0.16 is 16 % less error.
        detectable: the least change that this study could have told from none.
        errors: a value for each of ERRORS.
        by_fifth: change to A within each fifth of motion, slowest first.
        inverse_dynamics: R2 of actions decoded from predicted latents.
        copy_ratio: error of the trained predictor divided by that of copying the last latent.
        seeds: runs that count.
        diverged: runs that were left out because they diverged.
    """

    name: str
    label: str
    verdict: str
    change: float | None
    low: float | None
    high: float | None
    detectable: float | None
    errors: Mapping[str, float | None]
    by_fifth: Sequence[float | None]
    inverse_dynamics: float | None
    copy_ratio: float | None
    seeds: int
    diverged: int = 0


@dataclass(frozen=True, slots=True)
class Curve:
    """A learning curve.

    Attributes:
        name: of the run ("A seed 0").
        group: what it is drawn and listed as: its condition.
        epochs: where it was measured, from 1.
        values: the error there, None where not finite.
    """

    name: str
    group: str
    epochs: Sequence[int]
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True, eq=False)
class EpisodePage:
    """A held-out episode and what each model saw coming.

    Attributes:
        episode_id: as in the manifest.
        instruction: what was to be done; empty where none is known.
        tags: "models-beat-static", "tight-tie", "static-dominates", and the packet's own.
        frames: (n, h, w, 3) uint8 RGB.
        start: the first predicted row; the rows before it were given.
        retrieved: model -> GLOBAL or SAME -> for each predicted row from `start` on the index of the nearest frame, in
            the bank or in the episode.
        errors: model or STATIC -> error for each predicted row, divided by the variance of the held-out latents.
        link: address of the packet viewer's page of this episode, relative to the report's folder; empty for none.
    """

    episode_id: str
    instruction: str
    tags: Sequence[str]
    frames: NDArray[np.uint8]
    start: int
    retrieved: Mapping[str, Mapping[str, Sequence[int]]]
    errors: Mapping[str, Sequence[float | None]]
    link: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class StudyReport:
    """Everything that the report shows.

    Attributes:
        title: of the page.
        settings: name -> value, as the study ran; JSON values.
        counts: name -> number or text: episodes, scenes, left-out episodes and why, runs, hardware, date.
        warnings: sentences shown at the top.
        conditions: the first one is A.
        curves: title of a chart ("held-out error") -> its curves.
        probes: condition -> its probes.
        episodes: the held-out episodes.
        bank: (N, h, w, 3) uint8, the frames that global retrieval finds; at the same size as the episodes' frames.
        method: sentences on how intervals and verdicts were reached.
    """

    title: str
    settings: Mapping[str, Any]
    counts: Mapping[str, Any]
    warnings: Sequence[str]
    conditions: Sequence[ConditionRow]
    curves: Mapping[str, Sequence[Curve]]
    probes: Mapping[str, Sequence[Probe]]
    episodes: Sequence[EpisodePage]
    bank: NDArray[np.uint8]
    method: Sequence[str] = field(default_factory=tuple)
