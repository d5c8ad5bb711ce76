"""Folders of tiny packets that differ as those of a real collection do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from packers.schema import Dataset
from packers.writer import encode, write_packet
from tests.packers import examples


def write(
    folder: Path,
    episode_id: str,
    frames: int = 12,
    *,
    action_width: int = 7,
    without: Sequence[str] = (),
    source: str = "bridge",
    episode: int | None = None,
    tags: Sequence[str] = (),
    size: tuple[int, int] = (examples.HEIGHT, examples.WIDTH),
    values: dict[str, Any] | None = None,
) -> Path:
    """A packet with every dataset but those that begin with one of `without`; its pixels are its name's own."""
    seed = int(hashlib.sha256(episode_id.encode()).hexdigest()[:8], 16)
    rng = np.random.default_rng(seed)
    datasets: dict[str, Dataset] = {
        name: dataset
        for name, dataset in examples.datasets(frames, height=size[0], width=size[1]).items()
        if not name.startswith(tuple(without) or ("-",))
    }
    own: dict[str, Any] = {"pixels": rng.integers(0, 255, (frames, *size, 3), dtype=np.uint8)}
    action = rng.normal(size=(frames, action_width)).astype(np.float32)
    action[-1] = np.nan
    own |= {"action": action, "state": rng.normal(size=(frames, 3)).astype(np.float32)} | (values or {})
    for name, array in own.items():
        if name in datasets:
            datasets = examples.replaced(datasets, name, array)
    attributes = examples.attributes(episode_id, frames)
    number = seed if episode is None else episode
    attributes["source"] |= {"dataset": source, "path": f"traj{number}", "key": {"path": f"traj{number}"}}
    attributes["tags"] = list(tags)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{episode_id}.h5"
    write_packet(path, datasets, attributes)
    return path


def code(name: str, array: Any) -> Dataset:
    return encode(name, array, stage_key=examples.KEYS["source"])
