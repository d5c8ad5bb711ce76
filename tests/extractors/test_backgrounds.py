import cv2
import numpy as np
import pytest

from extractors.backgrounds import register, still_background
from extractors.errors import ShapeError
from tests.support import square_clip


def moved(pixels, shift_widths, zoom=1.0):
    height, width = pixels.shape[1:3]
    warp = np.array([[zoom, 0, shift_widths * width], [0, zoom, 0.3 * shift_widths * width]])
    return np.stack([cv2.warpAffine(frame, warp, (width, height), borderMode=cv2.BORDER_REFLECT) for frame in pixels])


@pytest.mark.parametrize("size", [(64, 64), (120, 160), (48, 64), (224, 224), (90, 300)])
def test_one_view_registers_whatever_moves_in_it(size):
    pixels, masks, _ = square_clip(24, size=size)
    first, second = still_background(pixels[:12], masks[:12]), still_background(pixels[12:], masks[12:])
    found = register(first, second)
    assert found.same_view
    assert found.moved < 0.005


@pytest.mark.parametrize("shift", [0.02, 0.04, 0.08])
@pytest.mark.parametrize("size", [(64, 64), (120, 160), (224, 224)])
def test_a_camera_that_is_nudged_is_noticed_and_measured(size, shift):
    pixels, _, _ = square_clip(8, size=size)
    found = register(still_background(pixels), still_background(moved(pixels, shift)))
    assert not found.same_view
    assert found.moved == pytest.approx(shift * np.hypot(1, 0.3), rel=0.3, abs=0.005)


def test_a_zoom_is_noticed():
    pixels, _, _ = square_clip(8, size=(120, 160))
    assert not register(still_background(pixels), still_background(moved(pixels, 0, zoom=1.1))).same_view


def test_another_scene_is_no_view_of_this_one():
    one, other = (still_background(square_clip(4, size=(96, 96), seed=seed)[0]) for seed in (0, 1))
    assert not register(one, other).same_view


def test_what_is_no_clip_is_refused():
    with pytest.raises(ShapeError, match="wants frames"):
        still_background(np.zeros((0, 8, 8, 3), np.uint8))
    with pytest.raises(ShapeError, match="one size"):
        register(np.zeros((8, 8)), np.zeros((8, 9)))
