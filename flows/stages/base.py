"""What a stage is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from extractors.types import Episode, Size
from flows.config import Config
from flows.output.store import StageResult, json_digest
from packers.schema import Dataset


@dataclass(frozen=True, slots=True)
class StageOutput:
    """What a stage made.

    Attributes:
        datasets: packet dataset name -> array in its storage encoding.
        report: what the stage found out; JSON types only.
        backend, device, precision: what made the signal.
        content: overrides the stage's key with one made from the content itself (the `source` stage).
    """

    datasets: Mapping[str, Dataset]
    report: Mapping[str, Any] = field(default_factory=dict)
    backend: str | None = None
    device: str = "cpu"
    precision: str = "fp32"
    content: Mapping[str, Any] | None = None


class StageInputs:
    """What a stage may look at: the episode, the finished stages before it, its own earlier result."""

    def __init__(
        self,
        open_episode: Callable[[], Episode],
        results: Mapping[str, StageResult],
        config: Config,
        previous: StageResult | None = None,
        weights: Mapping[str, str] | None = None,
        episode_id: str = "",
    ) -> None:
        self._open_episode = open_episode
        self.results = results
        self.config = config
        self.previous = previous
        self.weights = weights or {}
        self.episode_id = episode_id

    @cached_property
    def episode(self) -> Episode:
        """The source episode; opened when first asked for, its frames still lazy."""
        return self._open_episode()

    @property
    def size(self) -> Size:
        """(height, width) of the packet."""
        return self.config.packet.height, self.config.packet.width

    @property
    def source(self) -> Mapping[str, Any]:
        """The source stage's report: instruction, fps, tags, provenance, camera."""
        return self.results["source"].record.report

    @property
    def camera_moves(self) -> bool | None:
        """Whether the camera moves, as the source stage measured it; None where the clip shows too little to tell."""
        moving: bool | None = self.source["camera_motion"]["moving"]
        return moving

    def has(self, name: str) -> bool:
        """Whether a stage before this one made the dataset `name`."""
        return any(name in result.record.outputs for result in self.results.values())

    def dataset(self, name: str) -> Dataset:
        """A dataset as stored; KeyError where no stage made it."""
        for result in self.results.values():
            if name in result.record.outputs:
                return result.dataset(name)
        raise KeyError(name)

    def read(self, name: str) -> NDArray[Any] | None:
        """A dataset's values as stored, None where no stage made it."""
        for result in self.results.values():
            if name in result.record.outputs:
                return result.read(name)
        return None


SCENE_TRACKS = ("grid", "foreground")
"""Track sets of all that is in the picture."""


def read_track_sets(
    inputs: StageInputs, fields: Sequence[str], names: Sequence[str] = SCENE_TRACKS
) -> dict[str, dict[str, NDArray[Any]]]:
    """The fields of each track set of `names` that is there."""
    sets: dict[str, dict[str, NDArray[Any]]] = {}
    for name in names:
        if inputs.has(f"tracks/{name}/xy"):
            found = {field: inputs.read(f"tracks/{name}/{field}") for field in fields}
            sets[name] = {field: array for field, array in found.items() if array is not None}
    return sets


@dataclass(frozen=True, slots=True)
class Stage:
    """One step of the pipeline.

    Attributes:
        name: as in `stages` and `--from`.
        version: raised by hand when the same inputs and settings give other results.
        inputs: datasets whose content enters the key; "source" stands for the source stage's own key; a name ending
            in "*" stands for every dataset that starts so.
        settings: the part of the configuration that enters the key.
        run: makes the output.
        weights: names of the checkpoints used, given the configuration (see flows/models/weights.py).
    """

    name: str
    version: int
    inputs: tuple[str, ...]
    settings: Callable[[Config], Mapping[str, Any]]
    run: Callable[[StageInputs], StageOutput]
    weights: Callable[[Config], Sequence[str]] = lambda config: ()

    def key(self, config: Config, results: Mapping[str, StageResult], weights: Mapping[str, str]) -> str:
        """Sha256 over what the result depends on: inputs' content, settings, weights, code version."""
        inputs: dict[str, str] = {}
        for pattern in self.inputs:
            if pattern in results:
                inputs[pattern] = results[pattern].record.key
                continue
            for result in results.values():
                inputs |= {name: digest for name, digest in result.record.outputs.items() if _matches(name, pattern)}
        return json_digest(
            {
                "stage": self.name,
                "version": self.version,
                "inputs": inputs,
                "settings": dict(self.settings(config)),
                "weights": dict(weights),
            }
        )


def _matches(name: str, pattern: str) -> bool:
    return name == pattern or (pattern.endswith("*") and name.startswith(pattern[:-1]))
