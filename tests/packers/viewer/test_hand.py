import numpy as np
import pytest

from packers.reader import Packet
from packers.viewer.frames import FramePictures
from packers.viewer.hand import draw_hand, hand_marks, in_pixels, set_up_picture
from packers.writer import write_packet
from tests.packers.examples import attributes, datasets, write_example

K = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]])


def test_points_are_projected_and_those_behind_the_camera_are_not():
    pose = np.eye(4)
    pose[:3, 3] = [1, 0, 0]
    seen = in_pixels(np.array([[1.0, 0, 2], [1.1, 0, 1], [1, 0, -1]]), pose, K)
    np.testing.assert_allclose(seen[:2], [[50, 40], [60, 40]])
    assert np.isnan(seen[2]).all()


def test_marks_are_null_where_the_hand_is_not_known(tmp_path):
    with Packet(write_example(tmp_path)) as packet:
        marks = hand_marks(packet)
    assert marks[0]["hand"] is None
    # At the depth of the camera itself nothing is seen.
    assert marks[1]["hand"] is None
    assert len(marks[0]["object"]) == 5
    assert marks[-1]["object"] == []


def test_the_panel_is_there_with_a_camera_and_only_then(tmp_path):
    with Packet(write_example(tmp_path)) as packet:
        pictures = FramePictures(packet)
        assert "hand" in pictures.panels
        assert "aligned" in pictures.panels
        assert len(pictures.frames("hand", 0, 3)) == 3
    found = {name: each for name, each in datasets().items() if name not in ("extrinsics", "centroids_base")}
    found = {name: each for name, each in found.items() if not name.startswith(("camera_pose", "centroids_base"))}
    write_packet(tmp_path / "without.h5", found, attributes("without"))
    with Packet(tmp_path / "without.h5") as packet:
        assert "hand" not in FramePictures(packet).panels
        assert hand_marks(packet) is None


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_hand_is_drawn_where_it_is(scale):
    marks = [{"hand": [20.0, 10.0], "axes": [[25.0, 10.0], None, None], "object": [[5.0, 5.0]]}] * 2
    drawn = draw_hand(np.zeros((40, 60, 3), np.uint8), marks, 0, scale)
    assert drawn.shape == (round(40 * scale), round(60 * scale), 3)
    y, x = np.nonzero(drawn.any(axis=2))
    assert x.max() < 30 * scale
    assert y.max() < 16 * scale
    assert drawn[round(5 * scale), round(5 * scale)].any()


def test_a_refused_camera_can_be_looked_at_too(tmp_path):
    camera = {"focal_px": 30.0, "pixel_aspect": 1.0, "carrier_from_camera": np.eye(4).tolist()}
    picture = set_up_picture(write_example(tmp_path), camera)
    assert picture.shape[1] == 5 * 320
