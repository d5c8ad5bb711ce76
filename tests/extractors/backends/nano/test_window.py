"""The second look's window holds what was found, at any size and place."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from extractors.backends.nano.window import LEAST, Window, action_window
from extractors.geometry import resize_rgb


def found(size, rows, columns):
    out = np.zeros((3, *size), np.bool_)
    out[1, rows, columns] = True
    return out


@pytest.mark.parametrize("size", [(160, 160), (112, 160), (160, 96)])
@pytest.mark.parametrize("place", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("extent", [1, 20, 50])
@pytest.mark.parametrize("enlarged", [0.6, 1, 2.7])
def test_what_was_found_is_in_the_window_at_any_size_of_the_source(size, place, extent, enlarged):
    top, left = (round(place * (side - extent)) for side in size)
    source = tuple(round(side * enlarged) for side in size)
    window = action_window(found(size, slice(top, top + extent), slice(left, left + extent)), source)
    scale = [side / small for side, small in zip(source, size, strict=True)]
    assert 0 <= window.top <= top * scale[0] + 0.5
    assert 0 <= window.left <= left * scale[1] + 0.5
    assert source[0] >= window.bottom >= (top + extent) * scale[0] - 0.5
    assert source[1] >= window.right >= (left + extent) * scale[1] - 0.5
    sides = window.bottom - window.top, window.right - window.left
    assert abs(sides[0] - sides[1]) <= 1
    assert min(sides) >= LEAST * min(source) - 1


def test_nothing_and_nearly_all_have_no_window():
    assert action_window(np.zeros((3, 64, 64), np.bool_), (64, 64)) is None
    assert action_window(found((64, 64), slice(0, 45), slice(3, 9)), (640, 640)) is None


def test_both_looks_count_alike_where_both_saw():
    share = np.zeros((40, 40), np.float32)
    Window(40, 20, 80, 60, (80, 80)).blend(share[None], np.ones((1, 9, 9), np.float32))
    assert (share[20:, 10:30] == 0.5).all()
    share[20:, 10:30] = 0
    assert not share.any()


@pytest.mark.parametrize("packet", [(50, 50), (64, 96), (224, 224)])
def test_the_nearer_look_falls_where_the_first_one_does(packet):
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.uniform(0, 1, (131, 173, 3)), (0, 0), 6)
    frame = (255 * (smooth - smooth.min()) / np.ptp(smooth)).astype(np.uint8)
    window = Window(37, 51, 104, 118, frame.shape[:2])
    share = resize_rgb(frame, packet)[..., 0].astype(np.float32)
    near = resize_rgb(frame[37:104, 51:118], (160, 160))[..., 0].astype(np.float32)
    blended = share.copy()
    window.blend(blended[None], near[None])
    assert (blended != share).mean() > 0.1
    # Half a pixel aside is off by more.
    assert np.abs(blended - share).mean() < 0.1 * np.abs(np.diff(share, axis=1)).mean()


def test_the_smallest_picture_has_a_window_of_a_pixel():
    window = action_window(found((16, 16), slice(3, 4), slice(2, 3)), (3, 3))
    assert window.bottom - window.top >= 1
