"""What a check of a packet found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which a packet breaks the schema, or differs from its source.

    Attributes:
        packet: path of the file.
        dataset: the dataset's path, "/" for root attributes or the recorded hashes, None for the file as a whole.
        frame: the first frame concerned, None where no single frame is.
        reason: what is wrong, in words.
    """

    packet: str
    dataset: str | None
    frame: int | None
    reason: str
