"""Every stage on clips of every length and rate: none fails, and nothing is said that only a rate explains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest

from flows.models.device_slot import device_label
from tests.extractors.test_tracks import Standing
from tests.flows.run.test_shard import extract, packets
from tests.support import ArraySource

STAGES = (
    "masks.backend=recorded",
    "depth.backend=recorded",
    "tracks.backend=lucas-kanade",
    "tracks.grid_side=3",
    "tracks.count=12",
)


@dataclass(frozen=True)
class Sweep(ArraySource):
    """One clip for each pair of a length and a rate."""

    pairs: tuple[tuple[int, float], ...] = ()

    def episodes(self):
        for info in replace(self, count=len(self.pairs)).plain():
            n_frames, fps = self.pairs[info.episode_index]
            yield replace(info, n_frames=n_frames, fps=fps)

    def plain(self):
        return super().episodes()

    def open(self, info, camera=None):
        n_frames, fps = self.pairs[info.episode_index]
        return ArraySource(self.root, 1, n_frames, seed=self.seed, fps=fps).open(replace(info, n_frames=n_frames))


@pytest.fixture(autouse=True)
def standing_points(monkeypatch):
    """What a tracker costs is no part of the sweep: its points stand."""
    monkeypatch.setattr("flows.models.build.tracker", lambda config: Standing())


def sweep(tmp_path, pairs):
    rows, _ = extract(tmp_path, Sweep(tmp_path / "in", pairs=tuple(pairs)), *STAGES)
    failed = {name: row["error"] for name, row in rows.items() if row["status"] != "done"}
    assert failed == {}
    assert len(packets(tmp_path)) == len(pairs)
    return [row["tags"] for row in rows.values()]


def test_clips_of_every_length_are_packed(tmp_path):
    tags = sweep(tmp_path, [(n_frames, 5.0) for n_frames in range(1, 41)])
    assert not any("not-judged" in each for each in tags)


def test_clips_of_every_rate_are_packed(tmp_path):
    tags = sweep(tmp_path, [(9, float(fps)) for fps in range(1, 61)])
    assert not any("not-judged" in each for each in tags)


def test_a_packet_names_the_card_and_not_the_kind_of_device(monkeypatch):
    torch = pytest.importorskip("torch")

    def on(device):
        return SimpleNamespace(device=torch.device(device), precision="fp32")

    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: asked.append(device) or "NVIDIA H100 80GB HBM3")
    assert device_label(on("cuda:1")) == "NVIDIA H100 80GB HBM3"
    assert asked == [torch.device("cuda:1")]
    assert device_label(on("cpu")) == "cpu"
