"""Which settings make a tracks stage another one, and which track sets it makes."""

from types import SimpleNamespace

import numpy as np
import pytest

from flows.config import load_config
from flows.stages.tracks import TRACKS
from packers.schema import TRACK_SETS
from tests.support import square_clip

CHANGES = {
    "tracks.seed=3": {"cotracker3", "tapir", "lucas-kanade"},
    "tracks.robot=60": {"cotracker3", "tapir", "lucas-kanade"},
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


@pytest.mark.parametrize(
    ("recorded", "made"),
    [
        ({"masks/object", "masks/robot", "state"}, list(TRACK_SETS)),
        ({"masks/object", "masks/robot"}, ["grid", "foreground"]),
        ({"masks/robot", "state"}, ["grid", "robot"]),
        ({"state"}, ["grid"]),
    ],
)
def test_points_are_posed_on_the_robot_where_a_state_says_where_its_hand_was(recorded, made):
    pixels, masks, _ = square_clip(6)
    known = {"masks/object": masks, "masks/robot": masks, "pixels": pixels, "state": np.ones((6, 7), np.float32)}
    inputs = SimpleNamespace(
        config=load_config(assignments=["tracks.backend=lucas-kanade", "tracks.grid_side=4", "tracks.count=20"]),
        episode=SimpleNamespace(pixels=pixels),
        read=lambda name: known[name] if name in {*recorded, "pixels"} else None,
        has=lambda name: name in recorded,
        size=(48, 64),
        previous=None,
        results={"source": SimpleNamespace(record=SimpleNamespace(key="of the clip"))},
        weights={},
    )
    output = TRACKS.run(inputs)
    assert [name for name in TRACK_SETS if f"tracks/{name}/xy" in output.datasets] == made
    for name in made:
        assert output.report[name]["points"] == {"grid": 16, "foreground": 20, "robot": 240}[name]
