"""Point tracks: the uniform grid, and the set that favours the object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from extractors.tracks import extract_tracks
from flows import models
from flows.config import Config
from flows.stages.base import Stage, StageInputs, StageOutput
from packers.schema import Dataset
from packers.writer import encode


def _settings(config: Config) -> Mapping[str, Any]:
    if config.tracks.backend == "off":
        return {"backend": "off"}
    return config.tracks.model_dump(mode="json", exclude={"weights"})


def _run(inputs: StageInputs) -> StageOutput:
    config = inputs.config.tracks
    if config.backend == "off":
        return StageOutput({}, {"reason": "tracks.backend is off"}, backend="off")
    tracker = models.tracker(config)
    sets = extract_tracks(
        inputs.episode.pixels,
        inputs.read("masks/object"),
        tracker,
        size=inputs.size,
        grid_side=config.grid_side,
        count=config.count,
        share=config.share,
        seed=config.seed,
        min_object_tracks=config.min_object_tracks,
    )
    datasets: dict[str, Dataset] = {}
    for name, found in sets.items():
        for field in ("xy", "visibility", "confidence", "visibility_score", "queries"):
            path = f"tracks/{name}/{field}"
            datasets[path] = encode(path, getattr(found.tracks, field))
        datasets[f"tracks/{name}/on_object"] = encode(f"tracks/{name}/on_object", found.on_object)
    return StageOutput(
        datasets,
        {name: dict(found.report) for name, found in sets.items()},
        backend=config.backend,
        device=getattr(tracker, "device_name", "cpu"),
        precision=getattr(tracker, "precision", "fp32"),
    )


def _weights(config: Config) -> Sequence[str]:
    return models.tracks_weights(config.tracks)


TRACKS = Stage(
    name="tracks", version=1, inputs=("source", "masks/object"), settings=_settings, run=_run, weights=_weights
)
