"""Windows per second of other readers: runs in an environment of its own, knows nothing of cuepack.

python loader_client.py DATA PLAN.json COLUMN,COLUMN/COLUMN,...    prints [wall, cpu] seconds a window, for each set

DATA: a flat .h5 file, or a .lance table beside it, made of it where it is missing (stable-worldmodel); or a folder of
LeRobot, whose columns are not chosen.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any


def worldmodel(path: str, plan: dict[str, Any], columns: str) -> Any:
    """stable-worldmodel's reader of a file."""
    if path.endswith(".lance"):
        from stable_worldmodel.data import convert
        from stable_worldmodel.data.formats.lance import LanceDataset as Reader

        if not Path(path).exists():
            convert(path.replace(".lance", ".h5"), path, source_format="hdf5", progress=False)
    else:
        from stable_worldmodel.data.formats.hdf5 import HDF5Dataset as Reader
    dataset = Reader(path=path, frameskip=plan["frameskip"], num_steps=plan["frames"], keys_to_load=columns.split(","))
    if len(dataset) != plan["windows"]:
        raise SystemExit(f"wanted {plan['windows']} windows, the client has {len(dataset)}")
    return dataset


class lerobot:  # noqa: N801 - reads like the function beside it
    """Windows of a LeRobot data set by the numbers of the plan, which says where each starts."""

    def __init__(self, path: str, plan: dict[str, Any]) -> None:
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        fps, span = plan["fps"], plan["frames"] * plan["frameskip"]
        key = next(name for name in LeRobotDataset("local/x", root=path).features if "images" in name)
        frames = [row / fps for row in range(0, span, plan["frameskip"])]
        times = {key: frames, "action": [row / fps for row in range(span)]}
        self._dataset = LeRobotDataset("local/x", root=path, delta_timestamps=times, video_backend="pyav")
        self._starts = [row["dataset_from_index"] for row in self._dataset.meta.episodes]
        self._places = dict(zip(plan["numbers"], plan["places"], strict=True))

    def __getitem__(self, number: int) -> Any:
        clip, start = self._places[number]
        return self._dataset[self._starts[clip] + start]


def main() -> None:
    path, plan_path, column_sets = sys.argv[1], sys.argv[2], sys.argv[3].split("/")
    with open(plan_path, encoding="utf-8") as file:
        plan = json.load(file)
    rows = []
    for columns in column_sets:
        dataset = lerobot(path, plan) if not path.endswith((".h5", ".lance")) else worldmodel(path, plan, columns)
        for number in plan["numbers"] if plan["warm"] else plan["numbers"][:1]:
            dataset[number]
        started, used = time.perf_counter(), time.process_time()
        for number in plan["numbers"]:
            dataset[number]
        count = len(plan["numbers"])
        rows.append([(time.perf_counter() - started) / count, (time.process_time() - used) / count])
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
