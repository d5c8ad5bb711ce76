"""Which settings make a tracks stage another one, and which track sets it makes."""

from types import SimpleNamespace

import pytest

from flows.config import load_config
from flows.stages.tracks import TRACKS
from packers.schema import TRACK_SETS
from tests.support import square_clip

CHANGES = {
    "tracks.seed=3": {"cotracker3", "tapir", "lucas-kanade"},
    "tracks.robot=60": set(),
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


@pytest.mark.parametrize(("masked", "made"), [(True, ["grid", "foreground"]), (False, ["grid"])])
def test_points_favour_the_object_where_there_is_a_mask_of_it(masked, made):
    pixels, masks, _ = square_clip(6)
    inputs = SimpleNamespace(
        config=load_config(assignments=["tracks.backend=lucas-kanade", "tracks.grid_side=4", "tracks.count=20"]),
        episode=SimpleNamespace(pixels=pixels),
        read=lambda name: masks if masked and name == "masks/object" else None,
        size=(48, 64),
        previous=None,
        results={"source": SimpleNamespace(record=SimpleNamespace(key="of the clip"))},
        weights={},
    )
    output = TRACKS.run(inputs)
    assert [name for name in TRACK_SETS if f"tracks/{name}/xy" in output.datasets] == made
    for name in made:
        assert output.report[name]["points"] == {"grid": 16, "foreground": 20}[name]
