import cv2
import numpy as np
import pytest

from packers.reader import Packet
from packers.viewer.frames import OBJECT_RGB, FramePictures, panel_legend
from tests.packers.examples import datasets, replaced, set_values, tamper, write_example


def picture(content: bytes):
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_a_sheet_holds_sixteen_frames_in_rows_of_four(tmp_path):
    with Packet(write_example(tmp_path, frames=18)) as packet:
        pictures = FramePictures(packet)
        assert pictures.n_sheets == 2
        masks = picture(pictures.sheet("masks", 1))
        # Two frames are left: one row of cells.
        assert masks.shape == (32, 4 * 32, 4)
        expected = packet["masks/object"][16]
        blue, green, red, _ = (masks[:24, :32, channel] for channel in range(4))
        shown = (red == OBJECT_RGB[0]) & (green == OBJECT_RGB[1]) & (blue == OBJECT_RGB[2])
        np.testing.assert_array_equal(shown, expected)


def test_rgb_sheets_show_the_frames(tmp_path):
    path = write_example(tmp_path, height=32, width=48)
    tamper(path, set_values("pixels", slice(None), np.array([200, 90, 30], np.uint8)))
    with Packet(path) as packet:
        sheet = picture(FramePictures(packet).sheet("rgb", 0))
    # JPEG of a flat colour, BGR.
    np.testing.assert_allclose(sheet[5, 5], [30, 90, 200], atol=4)


def test_near_is_bright_in_every_depth_panel(tmp_path):
    with Packet(write_example(tmp_path)) as packet:
        pictures = FramePictures(packet)
        metric = pictures.frames("metric", 0, 1)[0].sum(axis=-1)
        # z grows from 0.5 m at the top to 2 m at the bottom; column 0 has no reading.
        assert metric[1, 5] > metric[12, 5] > metric[22, 5]
        inverse = packet.read("depth/relative", 0, 1)[0]
        relative = pictures.frames("depth", 0, 1)[0].sum(axis=-1)
        assert relative.flat[inverse.argmax()] > relative.flat[inverse.argmin()]


def test_relative_and_stabilized_depth_share_one_scale(tmp_path):
    with Packet(write_example(tmp_path)) as packet:
        pictures = FramePictures(packet)
        assert pictures.value_range("depth") is pictures.value_range("stabilized")
        assert pictures.value_range("metric").units == "m"
        assert pictures.value_range("rgb") is None


def test_large_packets_are_shown_reduced(tmp_path):
    with Packet(write_example(tmp_path, frames=2, height=600, width=1000)) as packet:
        pictures = FramePictures(packet)
        assert pictures.size == (307, 512)
        assert {frame.shape for frame in pictures.frames("masks", 0, 2)} == {(307, 512, 4)}


def test_only_what_is_there_is_shown(tmp_path):
    from packers.writer import write_packet
    from tests.packers.examples import attributes

    kept = {n: d for n, d in datasets().items() if n.split("/")[0] in ("pixels", "timestamp", "intrinsics")}
    write_packet(tmp_path / "episode_0.h5", kept, attributes())
    with Packet(tmp_path / "episode_0.h5") as packet:
        pictures = FramePictures(packet)
        assert pictures.panels == ("rgb",)
        assert panel_legend(pictures) == {"rgb": {}}
        assert picture(pictures.thumbnail()).shape == (128, 1280, 3)
        with pytest.raises(KeyError, match="masks"):
            pictures.sheet("masks", 0)
        with pytest.raises(IndexError):
            pictures.sheet("rgb", 1)


def test_a_clip_without_any_object_still_has_panels(tmp_path):
    from packers.writer import write_packet
    from tests.packers.examples import attributes

    found = datasets()
    empty = np.zeros((6, 24, 32), bool)
    for name in ("masks/object", "masks/object_dilate2", "masks/object_dilate4"):
        found = replaced(found, name, empty)
    write_packet(tmp_path / "episode_0.h5", found, attributes())
    with Packet(tmp_path / "episode_0.h5") as packet:
        pictures = FramePictures(packet)
        for panel in pictures.panels:
            assert picture(pictures.sheet(panel, 0)) is not None
