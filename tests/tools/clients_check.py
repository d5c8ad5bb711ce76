"""Runs stable-worldmodel's own reader, scaler and converter on an export; needs its environment and nothing of cuepack.

PYTHON tests/tools/clients_check.py EXPORT.h5     (`make clients` makes the environment and the export)
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")


def main() -> None:
    import torch
    from stable_worldmodel.data import convert
    from stable_worldmodel.data.formats.hdf5 import HDF5Dataset
    from stable_worldmodel.data.formats.lance import LanceDataset
    from stable_worldmodel.data.normalization import get_scaler

    path = Path(sys.argv[1]).resolve()
    dataset = HDF5Dataset(path=path, frameskip=5, num_steps=4)
    columns = [name for name in dataset.column_names if name != "pixels"]
    scalers = {name: get_scaler("zscore").fit(dataset.get_col_data(name)) for name in columns}
    for number in range(0, len(dataset), 7):
        window = dataset[number]
        for name in columns:
            rows = window[name] if name != "action" else window[name].reshape(-1, dataset.get_dim(name))
            if not torch.isfinite(scalers[name](rows)).all():
                raise SystemExit(f"window {number}: {name} is not finite after scaling")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "converted.lance"
        convert(str(path), str(target), source_format="hdf5", progress=False)
        lance = LanceDataset(path=str(target), frameskip=5, num_steps=4)
        if len(lance) != len(dataset):
            raise SystemExit(f"Lance has {len(lance)} windows, HDF5 {len(dataset)}")
        if not torch.allclose(lance[3]["proprio"], dataset[3]["proprio"]):
            raise SystemExit("Lance gives another state")
    print(f"{len(dataset)} windows, {len(columns)} columns scaled, converted to Lance and read back")


if __name__ == "__main__":
    main()
