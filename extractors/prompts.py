"""Which texts a detector is asked for, given the episode's instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from extractors.instruction import object_phrase

STUDY_PROMPT = "object being grabbed by robotic arm"
"""The sentence with which the study prompted SAM 3."""

DEFAULT_PROMPTS = (STUDY_PROMPT, "{object}", "object")
"""The study's sentence, the noun phrase of the instruction, and a generic one."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts to ask for.

    Attributes:
        texts: without repetition, in the order of the configuration; may be none.
        dropped: JSON rows {prompt, reason} of those left out.
    """

    texts: tuple[str, ...]
    dropped: tuple[dict[str, Any], ...] = ()


def resolve_prompts(prompts: Sequence[str], instruction: str) -> Prompts:
    """`prompts` with "{object}" replaced by the instruction's noun phrase ("put the carrot on a plate": "carrot").

    A prompt is dropped where it is blank, where it repeats another, or where the instruction names no object, as one in
    a language that `object_phrase` does not read.
    """
    phrase = object_phrase(instruction)
    texts: list[str] = []
    dropped: list[dict[str, Any]] = []
    for prompt in prompts:
        if "{object}" in prompt and phrase is None:
            dropped.append({"prompt": prompt, "reason": "the instruction names no object that could be read"})
            continue
        text = " ".join(prompt.replace("{object}", phrase or "").split())
        if not text:
            dropped.append({"prompt": prompt, "reason": "it is blank"})
        elif text.casefold() in (each.casefold() for each in texts):
            dropped.append({"prompt": prompt, "reason": "it repeats another"})
        else:
            texts.append(text)
    return Prompts(tuple(texts), tuple(dropped))
