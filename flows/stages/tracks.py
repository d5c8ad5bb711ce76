"""Point tracks: the uniform grid, and the set that favours the object; those on the robot are the calibration's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from extractors.tracks import TrackPlan, TrackSet, extract_tracks
from extractors.types import Tracks
from flows.config import Config, TracksConfig
from flows.models import build as models
from flows.models.device_slot import device_label, device_slot
from flows.output.store import json_digest
from flows.stages.base import Stage, StageInputs, StageOutput
from packers.schema import Dataset
from packers.writer import encode

VERSION, GRID_VERSION = 10, 8
"""Of the stage, and of the grid in it alone: where that stays, packets keep their grid."""

_OF_NETWORKS = frozenset({"iterations", "precision", "visible_by", "window_frames"})

_USED = {
    "cotracker3": _OF_NETWORKS | {"support_grid", "support_for"},
    "tapir": _OF_NETWORKS | {"causal", "tapir_px"},
}
"""Backend -> settings that it has and not every other one."""

_OF_BACKENDS = frozenset[str]().union(*_USED.values())

_TRACK_FIELDS = ("xy", "visibility", "confidence", "visibility_score", "queries")


def _settings(config: Config) -> Mapping[str, Any]:
    if config.tracks.backend == "off":
        return {"backend": "off"}
    return _backend_settings(config.tracks)


def _backend_settings(config: TracksConfig) -> dict[str, Any]:
    """The settings that matter to the backend: those of one tracker do not make another's tracks others."""
    unused = _OF_BACKENDS - _USED.get(config.backend, frozenset())
    return config.model_dump(mode="json", exclude={"weights", "robot", *unused})


def _run(inputs: StageInputs) -> StageOutput:
    config = inputs.config.tracks
    if config.backend == "off":
        return StageOutput({}, {"reason": "tracks.backend is off"}, backend="off")
    tracker = models.tracker(config)
    with device_slot(tracker):
        sets = extract_tracks(
            inputs.episode.pixels,
            inputs.read("masks/object"),
            tracker,
            size=inputs.size,
            plan=TrackPlan(
                grid_side=config.grid_side,
                count=config.count,
                share=config.share,
                background=config.background,
                seed=config.seed,
                min_object_tracks=config.min_object_tracks,
            ),
            known_grid=_known_grid(inputs),
        )
    datasets: dict[str, Dataset] = {}
    for name, found in sets.items():
        datasets |= encoded_set(name, found)
    return StageOutput(
        datasets,
        {name: dict(found.report) for name, found in sets.items()} | {"grid_key": _grid_key(inputs)},
        backend=config.backend,
        device=device_label(tracker),
        precision=tracker.precision,
    )


def encoded_set(name: str, found: TrackSet) -> dict[str, Dataset]:
    """The datasets of one set of tracks."""
    arrays = {field: getattr(found.tracks, field) for field in _TRACK_FIELDS} | {"on_object": found.on_object}
    return {path: encode(path, array) for field, array in arrays.items() if (path := f"tracks/{name}/{field}")}


def _known_grid(inputs: StageInputs) -> Tracks | None:
    """The packet's own grid tracks, where only the masks or the other sets' settings have changed since."""
    previous = inputs.previous
    if previous is None or previous.record.report.get("grid_key") != _grid_key(inputs):
        return None
    return Tracks(**{field: previous.read(f"tracks/grid/{field}") for field in _TRACK_FIELDS})


def _grid_key(inputs: StageInputs) -> str:
    config = inputs.config.tracks
    of_others = ("count", "share", "background", "seed", "min_object_tracks")
    settings = {name: value for name, value in _backend_settings(config).items() if name not in of_others}
    source = inputs.results["source"].record.key
    said = {"source": source, "settings": settings, "weights": dict(inputs.weights), "version": GRID_VERSION}
    return json_digest(said)


def _weights(config: Config) -> Sequence[str]:
    return models.tracks_weights(config.tracks)


TRACKS = Stage(
    name="tracks",
    version=VERSION,
    inputs=("source", "masks/object"),
    settings=_settings,
    run=_run,
    weights=_weights,
)
