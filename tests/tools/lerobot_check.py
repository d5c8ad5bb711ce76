"""An export opened with the real `lerobot` package, and compared with its packets frame by frame.

    python tests/tools/lerobot_check.py EXPORT PACKETS

Runs in an environment of its own that has `lerobot` (0.4 or newer, with its dataset parts), h5py, and nothing of
cuepack: EXPORT is what `cuepack export --format lerobot` wrote, PACKETS the output directory it was made from. Prints
what was compared; an inequality ends it with an AssertionError that names the feature.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def main(export: Path, packets: Path) -> None:
    """Compares every frame of every feature."""
    import pyarrow.parquet as pq
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset = LeRobotDataset("local/check", root=export, video_backend="pyav")
    about = json.loads((export / "meta" / "cuepack.json").read_text())["features"]
    episodes = pq.read_table(export / "meta" / "cuepack.parquet", columns=["episode_id"])["episode_id"].to_pylist()
    compared, squares = 0, []
    for number, episode_id in enumerate(episodes):
        (path,) = packets.glob(f"packets/*/{episode_id}.h5")
        row = dataset.meta.episodes[number]
        with h5py.File(path) as packet:
            for t, index in enumerate(range(row["dataset_from_index"], row["dataset_to_index"])):
                item = dataset[index]
                for key, entry in about.items():
                    if entry["dataset"] == "pixels":
                        decoded = item[key].numpy().transpose(1, 2, 0) * 255
                        squares.append(float(((decoded - packet["pixels"][t]) ** 2).mean()))
                    else:
                        _compare(item[key].numpy(), packet, entry["dataset"], t, dataset.features[key])
                        compared += 1
    loss = np.mean(squares)
    quality = "exact" if loss < 1e-6 else f"{10 * np.log10(255**2 / loss):.1f} dB PSNR"
    print(
        f"lerobot {version('lerobot')}: {dataset.num_episodes} episodes, {len(dataset)} frames, {len(about)} features; "
        f"{compared} values equal, pixels {quality}"
    )


def _compare(got: Any, packet: h5py.File, name: str, t: int, feature: dict[str, Any]) -> None:
    stored = packet[name]
    wanted = np.asarray(stored[t] if stored.shape[0] == len(packet["pixels"]) else stored[()])
    if name.startswith("depth/") and wanted.ndim == 2:
        wanted, code = (wanted * stored.attrs["scale"] + stored.attrs["offset"]).astype(np.float32), wanted
        if "fill" in stored.attrs:
            wanted[code == stored.attrs["fill"]] = np.nan
        # From 0.6 on LeRobot gives what it knows to be metres in millimetres.
        if feature.get("info", {}).get("depth_unit") == "m" and int(version("lerobot").split(".")[1]) >= 6:
            got = got / np.float32(1000)
        np.testing.assert_allclose(got[0], wanted, rtol=3e-7, err_msg=name)
        return
    if wanted.ndim == 2 and got.ndim == 3:
        got = got[0]
    if wanted.dtype == np.float64:
        wanted = wanted.astype(np.float32)  # LeRobot's torch tensors of Python floats
    np.testing.assert_array_equal(got.astype(wanted.dtype), wanted, err_msg=name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
