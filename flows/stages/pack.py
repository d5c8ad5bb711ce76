"""The last stage: what the others made becomes one packet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flows.config import Config
from flows.output.store import StageRecord, StageResult, json_digest, make_folder
from packers.schema import SCHEMA, Dataset
from packers.writer import write_packet

PACK_VERSION = 1

_OWN_ATTRIBUTE = ("source", "language_instruction", "fps")


def pack_key(results: Mapping[str, StageResult], config: Config) -> str:
    """Sha256 of all that the packet's bytes are made of."""
    stages = {name: [result.record.key, dict(result.record.outputs)] for name, result in results.items()}
    return json_digest({"stages": stages, "schema": SCHEMA, "version": PACK_VERSION, "config": config.keyed()})


def pack_episode(path: Path, episode_id: str, results: Mapping[str, StageResult], config: Config) -> None:
    """Writes the packet of an episode: a temporary file, synced, then renamed over an older one.

    Raises:
        OutputError: the disk is full, or the folder cannot be written.
    """
    datasets: dict[str, Dataset] = {}
    for result in results.values():
        for name in result.record.outputs:
            found = result.dataset(name)
            datasets[name] = Dataset(found.data, {**found.attributes, "stage_key": result.record.key})
    make_folder(path.parent)
    write_packet(path, datasets, _attributes(episode_id, results, config))


def _attributes(episode_id: str, results: Mapping[str, StageResult], config: Config) -> dict[str, Any]:
    source = results["source"].record.report
    quality = results["quality"].record.report
    stages = {name: asdict(result.record) for name, result in results.items()}
    # What has a root attribute of its own is not stored twice; flows/output/store.py puts it back.
    stages["source"]["report"] = {name: source[name] for name in source if name not in _OWN_ATTRIBUTE}
    stages["quality"]["report"] = {}
    stages["pack"] = asdict(StageRecord(key=pack_key(results, config), version=PACK_VERSION))
    return {
        "episode_id": episode_id,
        "language_instruction": source["language_instruction"],
        "fps": source["fps"],
        "source": source["source"],
        "config": config.keyed(),
        "stages": stages,
        "scores": quality["scores"],
        "quality": quality["quality"],
        "tags": quality["tags"],
    }
