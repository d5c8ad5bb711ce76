"""The values of a hand-eye calibration: what goes in, what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from extractors.errors import ShapeError

Floats = NDArray[np.float64]
Rig = Literal["fixed", "wrist"]


@dataclass(frozen=True, slots=True, eq=False)
class TrackedClip:
    """Tracks of one clip and the hand's recorded pose.

    Attributes:
        xy: (T, N, 2) pixels, x right, y down, the centre of the top-left pixel at (0, 0).
        visibility: (T, N) bool; set it False where a track must not be used (an object before it is held).
        hand_pose: (T, 4, 4) float64, maps points of the hand's frame to the robot's base frame, metres. Rows with NaN
            are taken from their neighbours.
        timestamp: (T,) float64 seconds, increasing.
        size: (height, width) of the frame in pixels.
        pixel_aspect: fy over fx: 1 for square pixels; a 4:3 frame resized to a square has 4/3.
        name: names the clip in reports.
    """

    xy: NDArray[Any]
    visibility: NDArray[np.bool_]
    hand_pose: NDArray[Any]
    timestamp: NDArray[Any]
    size: tuple[int, int]
    pixel_aspect: float = 1.0
    name: str = ""

    def __post_init__(self) -> None:
        n_frames, n_tracks = self.visibility.shape
        if self.xy.shape != (n_frames, n_tracks, 2) or self.visibility.dtype != np.bool_:
            raise ShapeError(
                f"a clip needs tracks (T, N, 2) and bool visibility (T, N), got {self.xy.shape} and "
                f"{self.visibility.shape} {self.visibility.dtype}"
            )
        if self.hand_pose.shape != (n_frames, 4, 4) or self.timestamp.shape != (n_frames,):
            raise ShapeError(
                f"a clip of {n_frames} frames needs hand_pose ({n_frames}, 4, 4) and timestamp ({n_frames},), got "
                f"{self.hand_pose.shape} and {self.timestamp.shape}"
            )

    @property
    def centred(self) -> Floats:
        """(T, N, 2) float64, positions from the frame's centre in widths of the frame, both axes on fx's scale."""
        height, width = self.size
        centre = ((width - 1) / 2, (height - 1) / 2)
        scaled: Floats = (np.asarray(self.xy, np.float64) - centre) / (width, width * self.pixel_aspect)
        return scaled


@dataclass(frozen=True, slots=True)
class Priors:
    """What is believed before any track is seen: standard deviations, metres and seconds.

    The offsets of points from the hand's frame come in two parts: what all points share (a hand's frame may be stored
    in the flange, the palm or the finger tips), and each point's own. Only a hand that turns tells the shared part from
    the camera's position, so its width decides how honest sigma is for a hand that does not.

    Attributes:
        focal: expected focal length in widths of the frame (0.87 is 60 degrees across).
        focal_log_sigma: of its logarithm; 0.5 covers 30 to 90 degrees at one and a half sigmas.
        shared_m: of the part of the points' offset that they share, per axis; for a wrist camera, of the scene's middle
            about that of the hand's path.
        own_m: of each point's own part, per axis.
        independent: so many points count as independent draws of their own part, if there are more.
        camera_m: of the camera's place, per axis: about the middle of the hand's path (fixed) or the hand (wrist).
        delay_s: of the time by which poses are ahead of images.
        distortion: of the radial coefficient k1 (0 leaves it out).
    """

    focal: float = 0.95
    focal_log_sigma: float = 0.5
    shared_m: float = 0.10
    own_m: float = 0.08
    independent: float = 6.0
    camera_m: float = 1.0
    delay_s: float = 0.15
    distortion: float = 0.0


WRIST_PRIORS = Priors(shared_m=0.5, own_m=0.3, camera_m=0.12)
"""For a camera on the wrist: it is near the hand's frame, and the scene's points are anywhere within reach."""


@dataclass(frozen=True, slots=True, eq=False)
class CameraState:
    """A camera and what goes with it, as the solver moves it.

    Attributes:
        log_focal: logarithm of the focal length in widths of the frame.
        rotation: (3, 3), maps directions of the camera's frame (OpenCV axes) to its carrier's: the robot's base for a
            fixed camera, the hand for a wrist camera.
        position: (3,) metres, of the camera in its carrier's frame (a base moved to the middle of the hand's path).
        shared: (3,) metres, mean offset of the points.
        delay_s: the image at time t shows the pose at t + delay_s.
        distortion: radial coefficient k1, on rays at z = 1.
    """

    log_focal: float
    rotation: Floats
    position: Floats
    shared: Floats
    delay_s: float = 0.0
    distortion: float = 0.0

    @property
    def focal(self) -> float:
        """Focal length in widths of the frame."""
        return float(np.exp(self.log_focal))


COLUMNS: Mapping[str, slice] = {
    "log_focal": slice(0, 1),
    "rotation": slice(1, 4),
    "position": slice(4, 7),
    "shared": slice(7, 10),
    "delay": slice(10, 11),
    "distortion": slice(11, 12),
}
"""Places of the camera's parameters in vectors and covariances."""

N_CAMERA = 12


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """A camera found from the robot's motion, or why it was not.

    Attributes:
        observable: every number of the camera may be used with its sigma.
        reasons: why not, in words; () where observable.
        focal_px: focal length along x, pixels of the clip's frame; along y times `pixel_aspect`.
        focal_sigma: relative.
        carrier_from_camera: (4, 4) float64, maps camera-frame points to the base (fixed) or to the hand (wrist).
        position_sigma_m: root mean square length of the error of the camera's position.
        rotation_sigma_deg: of its rotation.
        delay_s, delay_sigma_s: poses are ahead of images by so much.
        points: (N, 3) float64 metres, one a track of all clips in order: in the hand's frame (fixed) or the base
            (wrist); NaN for tracks that do not ride.
        points_sigma: (N, 3), given the camera and with its uncertainty.
        places: (N, 3) as `points`, of all tracks that move: where they would be if they rode.
        riding: (N,) bool, tracks that the solution rests on.
        residual: robust standard deviation of their residuals, widths of the frame.
        covariance: (12, 12) of the camera's parameters, in `COLUMNS`' order.
        report: starts, scales, counts. JSON types only.
        cameras: as the solver has them, the one that was found and then those that its starts led to: where another
            solve of the same clips may begin.
    """

    observable: bool
    reasons: tuple[str, ...]
    focal_px: float
    focal_sigma: float
    carrier_from_camera: Floats
    position_sigma_m: float
    rotation_sigma_deg: float
    delay_s: float
    delay_sigma_s: float
    points: Floats
    points_sigma: Floats
    places: Floats
    riding: NDArray[np.bool_]
    residual: float
    covariance: Floats
    report: Mapping[str, Any] = field(default_factory=dict)
    cameras: Sequence[CameraState] = ()
