"""Windows per second of stable-worldmodel's own readers: runs in an environment of its own, knows nothing of cuepack.

python loader_client.py FLAT.h5 PLAN.json COLUMN,COLUMN/COLUMN,...    prints [wall, cpu] seconds a window, for each set
"""

from __future__ import annotations

import json
import sys
import time


def main() -> None:
    path, plan_path, column_sets = sys.argv[1], sys.argv[2], sys.argv[3].split("/")
    with open(plan_path, encoding="utf-8") as file:
        plan = json.load(file)
    if path.endswith(".lance"):
        from stable_worldmodel.data.formats.lance import LanceDataset as Reader
    else:
        from stable_worldmodel.data.formats.hdf5 import HDF5Dataset as Reader
    rows = []
    for columns in column_sets:
        dataset = Reader(
            path=path, frameskip=plan["frameskip"], num_steps=plan["frames"], keys_to_load=columns.split(",")
        )
        if len(dataset) != plan["windows"]:
            raise SystemExit(f"wanted {plan['windows']} windows, the client has {len(dataset)}")
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
