import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractors.errors import ConfigError, PacketError, ShapeError
from packers.training import CONDITIONS, Centroids, Contact, Masks, PacketDataset, Shape, Tracks, TrackTokens, Window
from packers.training.targets import (
    Depth,
    cell_shares,
    inside_frame,
    patch_index,
    pixel_weights,
    track_displacements,
    weighted_cells,
)
from tests.packers import examples
from tests.packers.training import packets

sides = st.integers(1, 60)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.data())
def test_cells_hold_the_area_means_of_any_size(height, width, data):
    size = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    values = np.random.default_rng(height * 61 + width).random((2, height, width)).astype(np.float32)
    # By construction: each pixel blown up so that cells hold whole numbers of the small squares.
    fine = values.repeat(size[0], axis=1).repeat(size[1], axis=2)
    expected = fine.reshape(2, size[0], height, size[1], width).mean(axis=(2, 4))
    np.testing.assert_allclose(cell_shares(values, size), expected, rtol=2e-5)
    assert cell_shares(np.ones_like(values), size) == pytest.approx(np.ones((2, *size)), abs=1e-5)


def test_pixels_without_a_reading_do_not_pull_a_cell():
    values = np.full((1, 8, 8), 2.0, np.float32)
    values[0, :4, :4] = np.nan
    values[0, 4:6, :4] = np.nan
    weights = pixel_weights("full", values, None)
    coarse, share = weighted_cells(values, weights, (2, 2))
    np.testing.assert_array_equal(coarse, [[[0, 2], [2, 2]]])
    np.testing.assert_array_equal(share, [[[0, 1], [0.5, 1]]])


def test_a_weighted_cell_leans_to_the_object():
    values = np.zeros((1, 2, 2), np.float32)
    values[0, 0, 0] = 8
    mask = np.array([[[True, False], [False, False]]])
    coarse, share = weighted_cells(values, pixel_weights("weighted", values, mask), (1, 1))
    assert (coarse.item(), share.item()) == (5.0, 2.0)
    coarse, share = weighted_cells(values, pixel_weights("tight", values, mask), (1, 1))
    assert (coarse.item(), share.item()) == (8.0, 0.25)


def test_cells_smaller_than_a_pixel_are_refused():
    with pytest.raises(ShapeError, match="do not fill"):
        cell_shares(np.zeros((1, 24, 32), np.float32), (56, 56))


def test_displacements_start_at_any_frame_of_the_window():
    xy = np.array([[[0, 0], [5, 5]], [[2, 1], [5, 5]], [[6, 3], [40, 5]]], np.float32)
    seen = np.array([[True, True], [True, False], [True, True]])
    moved, weight = track_displacements(xy, seen, (20, 20), anchor=1)
    np.testing.assert_allclose(moved[:, 0] * 20, [[-2, -1], [0, 0], [4, 2]], atol=1e-6)
    np.testing.assert_array_equal(weight, [[1, 0], [1, 0], [1, 0]])
    moved, weight = track_displacements(xy, seen, (20, 20), anchor=-3)
    np.testing.assert_array_equal(weight, [[1, 1], [1, 0], [1, 0]])
    assert not moved[2, 1].any()
    with pytest.raises(ConfigError, match="anchor among the window's 3 frames"):
        track_displacements(xy, seen, (20, 20), anchor=3)


@settings(max_examples=50)
@given(st.sampled_from([(224, 224, 14), (224, 224, 16), (96, 128, 16)]), st.integers(0, 10_000))
def test_a_points_patch_is_the_one_that_holds_its_pixel(frame, seed):
    height, width, patch = frame
    xy = np.random.default_rng(seed).uniform(-8, max(height, width) + 8, (50, 2)).astype(np.float32)
    index, inside = patch_index(xy, (height, width), patch), inside_frame(xy, (height, width))
    pixel = np.rint(xy).astype(int)
    owner = np.arange(height * width // patch**2).reshape(height // patch, width // patch)
    owner = owner.repeat(patch, axis=0).repeat(patch, axis=1)
    for place in np.flatnonzero(inside):
        # Exactly between two pixels both are right.
        if (np.abs(xy[place] - pixel[place]) < 0.499).all():
            assert index[place] == owner[pixel[place][1], pixel[place][0]]
    np.testing.assert_array_equal(index == -1, ~inside)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("packet")
    packets.write(root, "e", 8)
    return root


def sample(folder, *targets, number=1):
    return PacketDataset(folder, Window(2, 1, 2), targets)[number]


@pytest.mark.parametrize(
    "target",
    [
        Depth(size=(12, 16)), Depth(variant="dilate4", size=None), Tracks("foreground"), TrackTokens(patch=8),
        Centroids(), Shape(), Contact(), Masks(size=(6, 8)), Masks("masks/robot", None),
    ],
)  # fmt: skip
def test_a_target_has_the_fields_it_states(folder, target):
    dataset = PacketDataset(folder, Window(2, 1, 2), [target])
    found = dataset[1]
    for key, (shape, dtype) in target.fields(dataset.sizes).items():
        assert (found[key].shape, found[key].dtype.name) == (shape, dtype), key
        assert np.isfinite(found[key]).all(), key


def test_tokens_agree_with_tracks(folder):
    found = sample(folder, Tracks(), TrackTokens(patch=8))
    np.testing.assert_array_equal(found["tokens_displacement"], found["tracks"])
    np.testing.assert_array_equal(found["tokens_weight"], found["tracks_weight"])
    assert (found["tokens_weight"] <= found["tokens_visibility"]).all()
    assert set(np.unique(found["tokens_patch"])) <= set(range(-1, 12))


def test_patches_that_do_not_fill_the_frame_are_refused(folder):
    with pytest.raises(ConfigError, match="patches of 14 px"):
        sample(folder, TrackTokens(patch=14))


def test_frames_without_the_object_have_no_centroid_and_no_shape(folder):
    # The example's last frame has no mask.
    found = sample(folder, Centroids(), Shape(), number=2)
    assert found["start"] == 2
    last = PacketDataset(folder, Window(1, 0), [Centroids(), Shape()])[7]
    assert (last["centroid_weight"].tolist(), last["shape_weight"].tolist()) == ([0], [0])
    assert not np.any([last["centroid"].any(), last["centroid_sigma"].any(), last["shape"].any()])
    np.testing.assert_allclose(found["centroid"][0], [0.1, 0.2, 1.0], rtol=1e-6)


def test_the_robots_frame_is_refused_where_no_packet_has_it(tmp_path):
    packets.write(tmp_path, "e", 8, without=["centroids_base"])
    with pytest.raises(ConfigError, match="none of 1 packets has centroids_base"):
        sample(tmp_path, Centroids("robot"))


def test_masks_are_the_share_of_each_cell(folder):
    found = sample(folder, Masks(size=(6, 8)), "masks/object")
    expected = found["masks/object"].reshape(3, 6, 4, 8, 4).mean(axis=(2, 4))
    np.testing.assert_allclose(found["mask"], expected, atol=1e-6)


def test_contact_has_both_signals(tmp_path):
    packets.write(tmp_path, "e", 8, values={"contact": np.linspace(0, 1, 8), "held": np.arange(8) > 5})
    found = PacketDataset(tmp_path, Window(8, 0), [Contact()])[0]["contact"]
    np.testing.assert_allclose(found[:, 0], np.linspace(0, 1, 8), atol=1e-6)
    np.testing.assert_array_equal(found[:, 1], np.arange(8) > 5)


@pytest.mark.parametrize(("variant", "weight"), [("loose", 5), ("dilate0", 5), ("weighted", -1), ("weighted", np.nan)])
def test_a_variant_that_cannot_be_is_refused(variant, weight):
    with pytest.raises(PacketError):
        Depth(variant=variant, weight=weight)


def test_every_condition_of_the_study_can_be_cut_from_a_full_packet(tmp_path):
    path = packets.write(tmp_path, "e", 6, size=(112, 112))

    def rename(file):
        modalities = json.loads(file.attrs["modalities"])
        for radius, usual in ((2, 8), (4, 20)):
            file.move(f"masks/object_dilate{radius}", f"masks/object_dilate{usual}")
            modalities[modalities.index(f"masks/object_dilate{radius}")] = f"masks/object_dilate{usual}"
        file.attrs["modalities"] = json.dumps(sorted(modalities))

    examples.tamper(path, rename)
    for name, targets in CONDITIONS.items():
        found = PacketDataset(tmp_path, Window(2, 1), targets)[0]
        weights = [key for key in found if key.endswith("_weight")]
        assert len(weights) == len(targets), name
        assert all(found[key].any() for key in weights), name
