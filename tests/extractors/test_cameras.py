"""The intrinsics ladder."""

from __future__ import annotations

import numpy as np
import pytest

from extractors.cameras import CAMERA_MODELS, choose_camera
from extractors.errors import ConfigError, GeometryError
from extractors.types import Camera

CALIBRATED = Camera(600, 602, 320, 240, 640, 480, source="calibrated", sigma=0.005)
ESTIMATED = Camera(590, 590, 319.5, 239.5, 640, 480, source="estimated", sigma=0.08)
MODELLED = Camera(615, 615, 319.5, 239.5, 640, 480, source="camera-model", sigma=0.02)
ASSUMED = Camera(500, 500, 319.5, 239.5, 640, 480, source="assumed", sigma=0.25)


@pytest.mark.parametrize(
    ("given", "model", "estimated", "source", "sigma"),
    [
        (CALIBRATED, "c920", ESTIMATED, "calibrated", 0.005),
        (ESTIMATED, "c920", None, "camera-model", 0.03),
        (MODELLED, None, ESTIMATED, "camera-model", 0.02),
        (None, "D435", ESTIMATED, "camera-model", 0.02),
        (None, None, ESTIMATED, "estimated", 0.08),
        (ASSUMED, None, ESTIMATED, "estimated", 0.08),
        (ASSUMED, None, None, "assumed", 0.25),
        (None, None, None, "assumed", 0.2),
    ],
)
def test_the_highest_rung_that_is_known_wins_and_says_so(given, model, estimated, source, sigma):
    camera = choose_camera((480, 640), given, model, estimated=estimated)
    assert (camera.source, camera.sigma, camera.width, camera.height) == (source, sigma, 640, 480)


def test_a_calibration_without_uncertainty_gets_the_documented_one():
    bare = Camera(600, 600, 320, 240, 640, 480, source="calibrated")
    assert choose_camera((480, 640), bare, calibration_sigma=0.02).sigma == 0.02


def test_the_d435_at_vga_has_the_angle_that_units_report():
    camera = choose_camera((480, 640), model="d435")
    assert np.degrees(2 * np.arctan(320 / camera.fx)) == pytest.approx(54.73, abs=1.0)  # librealsense issue 2141
    wide = choose_camera((1080, 1920), model="d435")
    assert np.degrees(2 * np.arctan(960 / wide.fx)) == pytest.approx(69.4, abs=3)  # the data sheet's tolerance
    assert np.degrees(2 * np.arctan(540 / wide.fy)) == pytest.approx(42.5, abs=2)


def test_the_c920_agrees_with_published_calibrations_in_two_modes():
    for size, focal in (((480, 640), 622.0), ((480, 640), 629.9), ((1080, 1920), 1443.4)):
        camera = choose_camera(size, model="c920")
        assert abs(camera.fx / focal - 1) < 2 * camera.sigma


def test_a_squashed_bridge_frame_has_two_focal_lengths():
    camera = choose_camera((256, 256), model="c920")
    assert camera.fx / camera.fy == pytest.approx(480 / 640)
    assert camera.resized(640, 480).fx == pytest.approx(choose_camera((480, 640), model="c920").fx)
    told = choose_camera((224, 224), model="d435", native_size=(720, 1280))
    assert told.fx / told.fy == pytest.approx(720 / 1280)


def test_an_assumed_angle_is_that_of_the_frames_as_delivered():
    plain = choose_camera((480, 640), assumed_fov_deg=60)
    assert plain.fx == pytest.approx(320 / np.tan(np.radians(30)))
    squashed = choose_camera((256, 256), assumed_fov_deg=60, native_size=(480, 640))
    assert squashed.fx == pytest.approx(128 / np.tan(np.radians(30)))
    assert squashed.fy == pytest.approx(squashed.fx * 640 / 480)


def test_every_model_names_its_source_and_is_centred():
    for name, model in CAMERA_MODELS.items():
        camera = choose_camera(model.default_mode, model=name)
        assert model.source
        assert 0 < camera.sigma < 0.1
        assert (camera.cx, camera.cy) == ((camera.width - 1) / 2, (camera.height - 1) / 2)
        assert 40 < np.degrees(2 * np.arctan(camera.width / 2 / camera.fx)) < 100


def test_bad_choices_are_refused_with_the_names_that_exist():
    with pytest.raises(ConfigError, match="c920"):
        choose_camera((480, 640), model="c290")
    with pytest.raises(ConfigError, match="field of view"):
        choose_camera((480, 640), assumed_fov_deg=180)
    with pytest.raises(GeometryError, match="positive"):
        choose_camera((0, 640))
