"""Backends are built from the configuration."""

import pytest
import torch

from extractors.backends.lucas_kanade import LucasKanade
from extractors.backends.nano.depth import NanoDepth
from extractors.backends.nano.segmenter import NanoSegmenter
from extractors.track_windows import WindowedTracker
from flows.config import TracksConfig, load_config
from flows.models import build as models


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        ({"backend": "lucas-kanade", "precision": "fp16"}, {}),
        ({"backend": "cotracker3", "support_for": "explicit"}, {"support_grid": 6, "support_for": "explicit"}),
        ({"backend": "tapir", "tapir_px": 512}, {"causal": False, "network_size": (512, 512)}),
        ({"backend": "tapir", "causal": True, "iterations": 3}, {"causal": True, "iterations": 3}),
        ({"backend": "tapir", "visible_by": "visibility", "threshold": 0.9}, {"threshold": 0.9}),
    ],
)
def test_each_tracker_gets_the_settings_that_it_has(monkeypatch, tmp_path, config, wanted):
    asked = {}

    def build(**settings):
        asked.update(settings)
        return LucasKanade()

    monkeypatch.setitem(models.TRACKERS, config["backend"], build)
    monkeypatch.setattr(models, "checkpoint_path", lambda name, given: tmp_path / name)
    monkeypatch.setattr(models, "_built", {})
    models.tracker(TracksConfig(**config))
    assert wanted.items() <= asked.items()
    if config["backend"] == "lucas-kanade":
        assert not asked
    else:
        assert asked["visible_by"] == config.get("visible_by", "both")
        assert asked["weights"].name == ("tapir-online" if config.get("causal") else config["backend"])
        assert ("iterations" in asked) == ("iterations" in config)


def test_long_clips_go_to_cotracker3_in_windows_where_that_is_asked_for(monkeypatch, tmp_path):
    asked = []

    def build(**settings):
        asked.append(settings)
        return LucasKanade()

    monkeypatch.setitem(models.TRACKERS, "cotracker3", build)
    monkeypatch.setattr(models, "checkpoint_path", lambda name, given: tmp_path / name)
    monkeypatch.setattr(models, "_built", {})
    whole = models.tracker(TracksConfig(backend="cotracker3"))
    windowed = models.tracker(TracksConfig(backend="cotracker3", window_frames=32))
    assert isinstance(whole, LucasKanade)
    assert isinstance(windowed, WindowedTracker)
    assert asked[0] == asked[1]
    assert models.tracker(TracksConfig(backend="cotracker3", window_frames=32)) is windowed
    assert isinstance(models.tracker(TracksConfig(backend="lucas-kanade", window_frames=32)), LucasKanade)


@pytest.mark.parametrize(
    ("profile", "with_cuda", "expected"), [("cpu", True, False), ("gpu", True, True), ("gpu", False, False)]
)
def test_a_run_uses_a_device_where_a_network_with_weights_finds_one(monkeypatch, profile, with_cuda, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: with_cuda)
    assert models.uses_device(load_config(assignments=[f"run.profile={profile}"]).resolved()) is expected


def test_the_cpu_profile_is_built_from_its_settings_alone(monkeypatch):
    monkeypatch.setattr(models, "_built", {})
    config = load_config(assignments=["run.profile=cpu", "depth.nano_working_px=96"]).resolved()
    estimator = models.depth_estimator(config.depth)
    assert isinstance(estimator, NanoDepth)
    assert estimator.working_px == 96
    assert isinstance(models.segmenter(config.masks), NanoSegmenter)
    assert isinstance(models.tracker(config.tracks), LucasKanade)
