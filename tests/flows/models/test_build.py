"""Backends are built from the configuration."""

from extractors.backends.lucas_kanade import LucasKanade
from extractors.track_windows import WindowedTracker
from flows.config import TracksConfig
from flows.models import build as models


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
