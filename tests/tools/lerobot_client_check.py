"""LeRobot's own tools on a default export: read, delete an episode, merge; `lerobot-train` is run by `make clients`.

PYTHON tests/tools/lerobot_client_check.py EXPORT      (needs lerobot and nothing of cuepack)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import warnings
from pathlib import Path

warnings.simplefilter("ignore")


def main() -> None:
    from lerobot.datasets.dataset_tools import delete_episodes, merge_datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    def opened(name: str, root: Path) -> LeRobotDataset:
        return LeRobotDataset(f"local/{name}", root=root, video_backend="pyav")

    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        shutil.copytree(sys.argv[1], folder / "a")
        shutil.copytree(sys.argv[1], folder / "b")
        first, second = opened("a", folder / "a"), opened("b", folder / "b")
        fewer = delete_episodes(first, [0], output_dir=folder / "fewer", repo_id="local/fewer")
        merge_datasets([first, second], output_repo_id="local/merged", output_dir=folder / "merged")
        fewer, merged = opened("fewer", folder / "fewer"), opened("merged", folder / "merged")
        if len(merged) != 2 * len(first) or fewer.num_episodes != first.num_episodes - 1:
            raise SystemExit(f"wanted {2 * len(first)} frames, got {len(merged)}; {fewer.num_episodes} episodes")
        for dataset in (first, fewer, merged):
            if not dataset[len(dataset) - 1]["action"].isfinite().all():
                raise SystemExit("an action is not finite")
        phases = sorted({first[frame]["subtask"] for frame in range(0, len(first), 3)})
        print(f"lerobot: {len(first)} frames read, one episode deleted, two exports merged; subtasks {phases}")


if __name__ == "__main__":
    main()
