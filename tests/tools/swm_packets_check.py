"""stable-worldmodel reads packets as they are, and gets what it reads from an export of them.

PYTHONPATH=. PYTHON tests/tools/swm_packets_check.py DIR EXPORT.h5     (`make clients` has the environment and both)
"""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")


def main() -> None:
    import torch
    from stable_worldmodel.data.formats.hdf5 import HDF5Dataset
    from stable_worldmodel.data.utils import load_dataset

    import packers.training.swm  # noqa: F401 - registers the format
    from packers.training import Masks

    folder, export = (Path(argument).resolve() for argument in sys.argv[1:3])
    packets = load_dataset(str(folder), frameskip=5, num_steps=4, targets=[Masks()])
    flat = HDF5Dataset(path=export, frameskip=5, num_steps=4)
    with Path(f"{export}.episodes.csv").open(encoding="utf-8", newline="") as file:
        place = {row["episode_id"]: number for number, row in enumerate(csv.DictReader(file))}
    compared = 0
    for number, (episode, start) in list(enumerate(packets.clip_indices))[::5]:
        name = packets.packets.entries[episode].facts["episode_id"]
        window, other = packets[number], flat[flat.clip_indices.index((place[name], start))]
        for column in ("pixels", "action", "observation", "proprio", "state"):
            if not torch.equal(window[column], other[column]):
                raise SystemExit(f"window {number}: {column} differs from the export's")
            compared += 1
    batch = next(iter(torch.utils.data.DataLoader(packets, batch_size=8, num_workers=2)))
    print(
        f"packets: {len(packets)} windows, {compared} columns equal to the export's, batch {tuple(batch['mask'].shape)}"
    )


if __name__ == "__main__":
    main()
