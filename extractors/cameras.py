"""Which intrinsics to believe: calibrated, a known camera model, an estimate, an assumed field of view."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ConfigError, GeometryError, ShapeError
from extractors.types import Camera, IntrinsicsSource, Size

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
        estimated: intrinsics that were estimated from the episode itself (`estimate_camera`).
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


def camera_from_matrix(
    matrix: NDArray[Any], size: Size, *, source: IntrinsicsSource = "calibrated", sigma: float = CALIBRATION_SIGMA
) -> Camera:
    """Camera of an intrinsic matrix.

    Args:
        matrix: (3, 3), K with the centre of the top-left pixel at (0, 0), pixels of `size`.
        size: (height, width) of the frames.
        source: how the numbers are known.
        sigma: relative standard deviation of the focal length.

    Raises:
        ShapeError: not 3 x 3.
        GeometryError: skew, a last row that is not (0, 0, 1), a focal length that is not positive, or a principal point
            so far out that the matrix must belong to another frame size.
    """
    k = np.asarray(matrix, np.float64)
    if k.shape != (3, 3):
        raise ShapeError(f"intrinsics must be a (3, 3) matrix, got {k.shape}")
    height, width = size
    if not np.allclose(k[2], (0, 0, 1)) or abs(k[0, 1]) > 1e-3 * abs(k[0, 0]) or abs(k[1, 0]) > 1e-9:
        raise GeometryError(f"intrinsics must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {k.tolist()}")
    if not (0 <= k[0, 2] <= width and 0 <= k[1, 2] <= height):
        raise GeometryError(
            f"the principal point ({k[0, 2]:g}, {k[1, 2]:g}) is outside the {width}x{height} frame; "
            "give the intrinsics of this frame size"
        )
    return Camera(
        float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]), width, height, source=source, sigma=sigma
    )


def estimate_camera(
    xy: NDArray[Any],
    z: NDArray[Any],
    travelled_m: NDArray[Any],
    size: Size,
    *,
    pixel_aspect: float = 1.0,
    noise_px: float = 1.0,
    min_travel_m: float = 0.01,
) -> Camera:
    """Focal length from points whose true path length is known, such as the gripper's from the robot's state.

    With metric depth, a step seen as (du, dv) pixels has the lateral length z * |(du, dv)| / f, so its length d obeys
    d^2 - dz^2 = (a / f)^2 with a the same step at f = 1. The median of f over the steps is returned; its sigma combines
    their spread with what `noise_px` does to the median step.

    Args:
        xy: (T, N, 2) pixels of N points that move as one rigid body, without turning, NaN where they are hidden.
        z: (T, N) metres along the optical axis, NaN or 0 where unknown.
        travelled_m: (T - 1,) metres that the body moved between frames.
        size: (height, width) of the frames.
        pixel_aspect: fy / fx, 4/3 for a square squash of 640 x 480.
        noise_px: standard deviation of a tracked point.
        min_travel_m: steps shorter than this are left out.

    Returns:
        Camera with source "estimated", the principal point centred.

    Raises:
        ShapeError: arrays that do not fit each other.
        GeometryError: fewer than 5 usable steps; give a camera model or a field of view instead.
    """
    xy, z, travelled = (np.asarray(a, np.float64) for a in (xy, z, travelled_m))
    if xy.ndim != 3 or xy.shape[2] != 2 or z.shape != xy.shape[:2] or travelled.shape != (len(xy) - 1,):
        raise ShapeError(
            f"wanted xy (T, N, 2), z (T, N), travelled (T-1,); got {xy.shape}, {z.shape}, {travelled.shape}"
        )
    height, width = size
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    rays = (xy - centre) / (1.0, pixel_aspect)
    z = np.where(np.isfinite(z) & (z > 0), z, np.nan)
    lateral = np.linalg.norm(np.diff(rays * z[..., None], axis=0), axis=-1)
    across = np.square(travelled)[:, None] - np.square(np.diff(z, axis=0))
    # A step mostly along the axis says nothing about the focal length: half of it must go sideways.
    usable = np.isfinite(lateral) & (travelled[:, None] >= min_travel_m)
    usable &= across > 0.5 * np.square(travelled)[:, None]
    if usable.sum() < 5:
        raise GeometryError(
            f"estimating a focal length needs 5 sideways steps of {min_travel_m} m, got {int(usable.sum())}; "
            "give a camera model or a field of view"
        )
    focals = lateral[usable] / np.sqrt(across[usable])
    focal = float(np.median(focals))
    if not focal > 0:
        raise GeometryError("the points do not move in the image although the robot does; are the tracks on it?")
    spread = 1.4826 * float(np.median(np.abs(focals - focal))) / focal
    steps_px = float(np.median(lateral[usable] / np.nanmedian(z)))
    # Points of one body share their error, so steps are counted by frame and not by point.
    n_steps = int(usable.any(axis=1).sum())
    sigma = max(1.2533 * spread / np.sqrt(n_steps), np.sqrt(2) * noise_px / steps_px / np.sqrt(n_steps), 0.01)
    return Camera(
        focal,
        focal * pixel_aspect,
        float(centre[0]),
        float(centre[1]),
        width,
        height,
        source="estimated",
        sigma=float(sigma),
    )


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
