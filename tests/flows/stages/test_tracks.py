"""Which settings make a tracks stage another one."""

import pytest

from flows.config import load_config
from flows.stages.tracks import TRACKS

CHANGES = {
    "tracks.seed=3": {"cotracker3", "tapir", "lucas-kanade"},
    "tracks.background=own": {"cotracker3", "tapir", "lucas-kanade"},
    "tracks.threshold=0.4": {"cotracker3", "tapir", "lucas-kanade"},
    "tracks.visible_by=visibility": {"cotracker3", "tapir"},
    "tracks.iterations=3": {"cotracker3", "tapir"},
    "tracks.window_frames=64": {"cotracker3", "tapir"},
    "tracks.support_grid=0": {"cotracker3"},
    "tracks.support_for=explicit": {"cotracker3"},
    "tracks.causal=true": {"tapir"},
    "tracks.tapir_px=512": {"tapir"},
    "tracks.weights=/elsewhere": set(),
}


@pytest.mark.parametrize("backend", ["cotracker3", "tapir", "lucas-kanade"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_setting_counts_for_the_backends_that_have_it(backend, change):
    def settings(*more):
        return dict(TRACKS.settings(load_config(assignments=[f"tracks.backend={backend}", *more])))

    assert (settings(change) != settings()) == (backend in CHANGES[change])
