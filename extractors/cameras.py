"""Which intrinsics to believe: calibrated, a known camera model, an estimate, an assumed field of view."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from extractors.errors import ConfigError, GeometryError
from extractors.types import Camera, Size

CALIBRATION_SIGMA = 0.01
"""Relative focal uncertainty taken for a calibration that states none: published checkerboard calibrations of one C920
differ by about 1 % (623, 630 pixels at 640 x 480)."""

ASSUMED_SIGMA = 0.2
"""Relative focal uncertainty of an assumed field of view. Cameras over robot tables lie between about 42 and 87 degrees
horizontally (GT scenes, D435, C920 to D455); seen from 60 degrees that is 0.61 to 1.50 times the focal length, which a
normal distribution with this sigma covers at two standard deviations or a little more."""


@dataclass(frozen=True, slots=True)
class CameraModel:
    """A camera product whose colour image is known from its maker or from published calibrations.

    Attributes:
        name: what users write, lower case.
        focal_per_height: focal length over frame height, both in pixels. One number serves every mode of a sensor whose
            narrower modes cut the sides and keep the full height, as all cameras of the table do.
        aspect: width over height of the sensor's own mode; wider frames cut top and bottom instead.
        sigma: relative standard deviation of the focal length between units and modes.
        default_mode: (height, width) that robot data sets record it at.
        source: where the numbers come from.
    """

    name: str
    focal_per_height: float
    aspect: float
    sigma: float
    default_mode: Size
    source: str

    def camera(self, size: Size) -> Camera:
        """Intrinsics of frames (height, width) as the camera delivers them, not squashed; principal point centred."""
        height, width = size
        # A frame wider than the sensor spans its full width, and its height is what is left.
        focal = self.focal_per_height * max(height, width / self.aspect)
        return Camera(
            fx=focal,
            fy=focal,
            cx=(width - 1) / 2,
            cy=(height - 1) / 2,
            width=width,
            height=height,
            source="camera-model",
            sigma=self.sigma,
        )


_WIDE, _VGA, _HD = 16 / 9, (480, 640), (720, 1280)

CAMERA_MODELS: dict[str, CameraModel] = {
    model.name: model
    for model in (
        CameraModel(
            "c920",
            1.305,
            _WIDE,
            0.03,
            _VGA,
            "Logitech HD Pro C920: published calibrations 622.0 px (FIRST Tech Challenge) and 629.9 px at 640x480, "
            "1443.4 px at 1920x1080; 78 degrees diagonal in the data sheet gives 1.26. 640x480 shows the full height "
            "of the 16:9 sensor (measured: wimsworld.wordpress.com/2013/09/26/logitech-c920-angle-of-view)",
        ),
        CameraModel(
            "c922",
            1.26,
            _WIDE,
            0.05,
            _VGA,
            "Logitech C922 data sheet: 78 degrees diagonal at 16:9, full height at 640x480 as the C920; no calibration",
        ),
        CameraModel(
            "c270",
            1.408,
            4 / 3,
            0.04,
            _VGA,
            "Logitech C270: 1351.1, 1353.6 px at 1280x960 in a published calibration; data sheet 55 degrees diagonal "
            "at 16:9 gives 1.47",
        ),
        CameraModel(
            "d435",
            1.28,
            _WIDE,
            0.02,
            _VGA,
            "Intel RealSense D435/D435i colour: data sheet 69.4 x 42.5 (+-3) degrees at 16:9 gives 1.286; factory "
            "intrinsics of units at 640x480: 612.4 (librealsense #7300), 618 (#2141: 54.73 degrees), 610.3 "
            "(robopen/roboagent #23). 640x480 cuts the sides (#7170)",
        ),
        CameraModel(
            "d415",
            1.28,
            _WIDE,
            0.03,
            _VGA,
            "Intel RealSense D415 colour: the same OV2740 sensor and 69 x 42 (+-1) degrees as the D435 (data sheet "
            "May 2020, table 3-42)",
        ),
        CameraModel(
            "d455",
            0.785,
            16 / 10,
            0.04,
            _VGA,
            "Intel RealSense D455 colour: data sheet 90 x 65 degrees at 1280x800; the vertical angle gives 0.785",
        ),
        CameraModel(
            "l515",
            1.269,
            _WIDE,
            0.03,
            _HD,
            "Intel RealSense L515 colour: data sheet 70 x 43 degrees at 1920x1080; the vertical angle gives 1.269",
        ),
        CameraModel(
            "kinect-v1",
            1.094,
            4 / 3,
            0.02,
            _VGA,
            "Microsoft Kinect for Xbox 360 colour: 525 px at 640x480, the default of the OpenNI drivers and of the TUM "
            "RGB-D benchmark",
        ),
    )
}
"""Known cameras by name. BridgeData V2 uses a RealSense D435 over the shoulder and Logitech C920 elsewhere."""


def choose_camera(
    episode_size: Size,
    given: Camera | None = None,
    model: str | None = None,
    *,
    estimated: Camera | None = None,
    native_size: Size | None = None,
    assumed_fov_deg: float = 60.0,
    calibration_sigma: float = CALIBRATION_SIGMA,
    assumed_sigma: float = ASSUMED_SIGMA,
) -> Camera:
    """The best known intrinsics of an episode's frames.

    The first of: calibrated, camera model, estimated, assumed field of view. Resizing is applied to x and y
    separately, so that a 256 x 256 squash of 640 x 480 keeps its two focal lengths.

    Args:
        episode_size: (height, width) of the episode's frames.
        given: the user's or the source's intrinsics, of any size the frames were resized from; its `source` says
            which rung it stands on.
        model: a name of `CAMERA_MODELS`.
        estimated: intrinsics that were estimated from the episode itself.
        native_size: (height, width) that the camera delivered before the frames were squashed to `episode_size`.
            Without it, frames of an aspect that is neither 4:3 nor 16:9 are taken as squashed from the model's default
            mode, and an assumed camera as not squashed.
        assumed_fov_deg: horizontal field of view taken when nothing is known, degrees, of the frames as delivered.
        calibration_sigma: relative focal uncertainty of a calibration that states none.
        assumed_sigma: relative focal uncertainty of the assumed field of view.

    Returns:
        Camera of `episode_size` with `source` and `sigma`.

    Raises:
        ConfigError: no such model, or a field of view outside 1 to 179 degrees.
        GeometryError: a size that is not positive.
    """
    height, width = episode_size
    if min(height, width) < 1 or (native_size is not None and min(native_size) < 1):
        raise GeometryError(f"frame sizes must be positive, got {episode_size} and native {native_size}")
    if given is not None and given.source == "calibrated":
        calibrated = given if given.sigma > 0 else replace(given, sigma=calibration_sigma)
        return calibrated.resized(width, height)
    if model is not None:
        return _known_model(model, episode_size, native_size).resized(width, height)
    for camera in (given, estimated):
        if camera is not None and camera.source != "assumed":
            return camera.resized(width, height)
    if given is not None:
        return given.resized(width, height)
    return _assumed(native_size or episode_size, assumed_fov_deg, assumed_sigma).resized(width, height)


def _known_model(name: str, episode_size: Size, native_size: Size | None) -> Camera:
    model = CAMERA_MODELS.get(name.lower())
    if model is None:
        raise ConfigError(f"no camera model named {name!r}; choose one of {sorted(CAMERA_MODELS)}")
    if native_size is not None:
        return model.camera(native_size)
    height, width = episode_size
    modes = (model.default_mode, (9, 16), (3, 4))
    # A width that is off by one pixel was rounded, not squashed.
    plain = any(abs(width - height * mode[1] / mode[0]) <= 1 for mode in modes)
    return model.camera(episode_size if plain else model.default_mode)


def _assumed(size: Size, fov_deg: float, sigma: float) -> Camera:
    if not 1 <= fov_deg <= 179:
        raise ConfigError(f"a field of view must be between 1 and 179 degrees, got {fov_deg}")
    height, width = size
    focal = width / 2 / float(np.tan(np.radians(fov_deg) / 2))
    return Camera(focal, focal, (width - 1) / 2, (height - 1) / 2, width, height, source="assumed", sigma=sigma)
