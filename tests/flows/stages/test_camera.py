"""What stages after the tracks take from them."""

import numpy as np

from flows.stages.camera import scene_tracks


class Results:
    """Stands for `StageInputs`: datasets by name."""

    size = (16, 16)

    def __init__(self, datasets):
        self._datasets = datasets

    def has(self, name):
        return name in self._datasets

    def read(self, name):
        return self._datasets.get(name)


def track_set(name, queries, on_object):
    queries = np.array(queries, np.float32)
    xy = np.stack([queries[:, 1:], queries[:, 1:] + 1])
    return {
        f"tracks/{name}/xy": xy,
        f"tracks/{name}/visibility": np.ones(xy.shape[:2], bool),
        f"tracks/{name}/on_object": np.array(on_object),
        f"tracks/{name}/queries": queries,
    }


def test_a_track_that_both_sets_hold_counts_once():
    grid = track_set("grid", [[0, 1, 1], [0, 5, 1], [0, 9, 1]], [False, True, False])
    foreground = track_set("foreground", [[2, 5, 2], [0, 9, 1]], [True, False])
    both = scene_tracks(Results(grid | foreground))
    np.testing.assert_array_equal(both.xy[0], [[1, 1], [5, 1], [9, 1], [5, 2]])
    np.testing.assert_array_equal(both.on_object, [False, True, False, True])
    assert both.visibility.shape == (2, 4)


def test_one_set_is_all_there_is_without_an_object():
    grid = track_set("grid", [[0, 1, 1], [0, 5, 1]], [False, False])
    np.testing.assert_array_equal(scene_tracks(Results(grid)).xy, grid["tracks/grid/xy"])
    assert scene_tracks(Results({})) is None
