"""From prompts to `Masks`: what the text-prompted segmenters share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from extractors.backends.devices import is_out_of_memory
from extractors.backends.nano.segmenter import NanoSegmenter
from extractors.errors import ConfigError, DeviceMemoryError
from extractors.instruction import parse_instruction
from extractors.mask_choice import Candidate, Choice, ChooseBy, choose_first, choose_handled
from extractors.prompts import DEFAULT_PROMPTS, resolve_prompts
from extractors.things import named_things
from extractors.types import Episode, Frames, Masks, Size


@dataclass(frozen=True, slots=True)
class Found:
    """What a detector proposes.

    Attributes:
        candidates: of all prompts, those of one prompt distinguished by `name`.
        notes: for the report; JSON types only.
    """

    candidates: tuple[Candidate, ...]
    notes: dict[str, Any]


class PromptedSegmenter(ABC):
    """Asks a detector for several texts and keeps what `nano` sees as the manipulated object."""

    backend: str

    def __init__(
        self,
        *,
        prompts: Sequence[str] = DEFAULT_PROMPTS,
        choose: ChooseBy = "best",
        robot_prompt: str | None = None,
        every: int = 5,
        max_objects: int = 16,
    ) -> None:
        """What to ask for.

        Args:
            prompts: texts; "{object}" stands for the noun phrase of the language instruction.
            choose: "best" is what overlaps most with the object that `nano` sees in the clip; "first" takes the first
                prompt that finds anything.
            robot_prompt: text for the arm, whose masks become `Masks.robot`; none: no robot masks.
            every: key frames, on which a detector looks, are so many frames apart.
            max_objects: followed at once, over all prompts.

        Raises:
            ConfigError: no prompts, counts below 1, or `choose` is neither.
            WeightsError: the weights of `nano` are damaged.
        """
        if not prompts:
            raise ConfigError("masks.prompts is empty; name at least one text, such as 'object'")
        if every < 1 or max_objects < 1:
            raise ConfigError(f"masks.every and masks.max_objects must be 1 or more, got {every} and {max_objects}")
        if choose not in get_args(ChooseBy):
            raise ConfigError(f"masks.choose must be 'best' or 'first', got {choose!r}")
        self._watcher = NanoSegmenter() if choose == "best" else None
        self.prompts, self.choose, self.robot_prompt = tuple(prompts), choose, robot_prompt
        self.every, self.max_objects = every, max_objects

    @abstractmethod
    def propose(self, pixels: Frames, prompts: Sequence[str], *, size: Size) -> Found:
        """Candidates of each prompt, masks at `size`; iterates `pixels` once."""

    def segment(self, episode: Episode, *, size: Size) -> Masks:
        """See `Segmenter`. The report holds prompts, candidates with their scores, and the margin.

        Raises:
            DeviceMemoryError: the device's memory does not suffice.
        """
        prompts = resolve_prompts(self.prompts, episode.language_instruction)
        robot_text = (self.robot_prompt or "").strip()
        instruction = parse_instruction(episode.language_instruction)
        asked = list(dict.fromkeys(text for text in (*prompts.texts, robot_text, instruction.target) if text))
        report: dict[str, Any] = {
            "backend": self.backend,
            "prompts": list(prompts.texts),
            "prompts_dropped": list(prompts.dropped),
            "candidates": [],
            "margin": 0.0,
        }
        found = Found((), {})
        if asked:
            try:
                found = self.propose(episode.pixels, asked, size=size)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                raise DeviceMemoryError(
                    f"the device ran out of memory while {self.backend} segmented {episode.episode_id} "
                    f"({episode.n_frames} frames); lower masks.max_objects (now {self.max_objects}), ask fewer "
                    "prompts, or free the device"
                ) from error
        report |= found.notes
        robot = None
        if robot_text:
            robot = _union([each for each in found.candidates if each.prompt == robot_text], episode.n_frames, size)
            report["robot_prompt"] = robot_text
        field = [each for each in found.candidates if each.prompt in prompts.texts]
        choice = self._choice(field, episode)
        report |= {"choose": self.choose, **choice.report(field)}
        if choice.index is None:
            asked_for = " or ".join(repr(text[:60]) for text in prompts.texts) or "anything: every prompt was dropped"
            report["reason"] = f"{self.backend} found no {asked_for}"
            empty = np.zeros((episode.n_frames, *size), np.bool_)
            return Masks(empty, np.zeros(episode.n_frames, np.float32), robot=robot, report=report)
        chosen = field[choice.index]
        masks = np.stack([np.asarray(mask, np.bool_) for mask in chosen.masks])
        score = np.clip(chosen.confidence, 0, 1).astype(np.float32) * masks.any(axis=(1, 2))
        covered = masks if robot is None else masks | robot
        # A text of ours names nothing: only the instruction's words do.
        names = (instruction.object, instruction.target)
        others = [each for each in found.candidates if each is not chosen and each.prompt != robot_text]
        others.sort(key=lambda each: each.prompt != instruction.target)
        things = named_things([(each.masks, each.prompt if each.prompt in names else "") for each in others], covered)
        return Masks(masks, score, robot=robot, things=things, report=report)

    def _choice(self, field: Sequence[Candidate], episode: Episode) -> Choice:
        if not field or self._watcher is None:
            return choose_first(field)
        return choose_handled(field, self._watcher.handled(episode))


def _union(candidates: Sequence[Candidate], n_frames: int, size: Size) -> NDArray[np.bool_]:
    out = np.zeros((n_frames, *size), np.bool_)
    for each in candidates:
        for frame, mask in enumerate(each.masks):
            out[frame] |= mask
    return out
