import base64
import json

import numpy as np
import pytest

from extractors.errors import PacketError
from packers.reader import Packet
from packers.viewer.episode import describe_episode, describe_points, object_points, packet_camera
from tests.packers.examples import write_example


def decoded(text: str, dtype: str):
    return np.frombuffer(base64.b64decode(text), dtype)


def test_what_the_page_needs_is_plain_json(tmp_path):
    path = write_example(tmp_path)
    episode = describe_episode(path)
    json.dumps(episode, allow_nan=False)
    assert episode["faults"] == []
    series = {one["title"]: one for one in episode["series"]}
    assert list(series) == [
        "motion and phase",
        "gripper and contact",
        "centroid",
        "coverage",
        "tracks on the object",
        "shape descriptors",
    ]
    motion = series["motion and phase"]
    assert motion["spans"] == [
        {"name": "approach", "first": 0, "last": 2},
        {"name": "grasp", "first": 3, "last": 5},
    ]
    assert motion["lines"][0]["values"] == [None] + [0.1] * 5
    assert motion["active_span"] == [0, 6]
    # The last frame has no mask: no centroid there, and no coverage.
    assert series["centroid"]["lines"][0]["values"] == [0.1] * 5 + [None]
    assert series["coverage"]["lines"][0]["values"] == pytest.approx([100 * 36 / (24 * 32)] * 5 + [0], abs=1e-3)
    assert series["gripper and contact"]["marks"] == [{"name": "contact onset", "frame": 3}]


def test_tracks_arrive_as_they_are_stored(tmp_path):
    path = write_example(tmp_path, frames=40)
    with Packet(path) as packet:
        xy, visibility = packet["tracks/grid/xy"], packet["tracks/grid/visibility"]
    points = describe_points(path, 1)
    assert points["start"] == 32
    sent = decoded(points["tracks"]["grid"]["xy"], "<i2").reshape(8, -1, 2) / 16
    np.testing.assert_allclose(sent, xy[32:], atol=1 / 32)
    bits = decoded(points["tracks"]["grid"]["visible"], "u1").reshape(8, -1)
    np.testing.assert_array_equal(np.unpackbits(bits, axis=1)[:, : xy.shape[1]].astype(bool), visibility[32:])
    with pytest.raises(IndexError):
        describe_points(path, 2)


def test_object_points_are_the_masked_depth_back_projected(tmp_path):
    with Packet(write_example(tmp_path)) as packet:
        xyz, rgb = object_points(packet, "depth/metric", 0, 1)[0]
        camera, mask, z = packet_camera(packet), packet["masks/object"][0], packet["depth/metric"][0]
        assert len(xyz) == len(rgb) == mask.sum()
        u = xyz[:, 0] / xyz[:, 2] * camera.fx + camera.cx
        v = xyz[:, 1] / xyz[:, 2] * camera.fy + camera.cy
        at = np.rint(v).astype(int), np.rint(u).astype(int)
        assert mask[at].all()
        np.testing.assert_allclose(xyz[:, 2], z[at], rtol=1e-5)


def test_something_else_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"CUEPACK1")
    with pytest.raises(PacketError):
        describe_episode(tmp_path / "a.h5")


def test_the_3_d_view_is_in_metres_where_the_camera_is_known(tmp_path):
    episode = describe_episode(write_example(tmp_path))
    space = episode["space"]
    assert (space["dataset"], space["units"]) == ("depth/metric", "m")
    # The example's camera is at the base and the hand 0.3 m along x; the first row was not recorded.
    assert space["hand"] == [[None] * 3] + [[0.3, 0.0, 0.0]] * 5
    held = decoded(space["held"], "<f4").reshape(6, space["held_points"], 3)
    np.testing.assert_allclose(held[0], [[1.2, 1.0, 1.0]] * 5, rtol=1e-6)
    assert np.isnan(held[-1]).all()
