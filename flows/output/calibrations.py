"""The file of `cuepack calibrate`: cameras of set-ups as the robot's hand told them, and whose episodes they are."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from extractors.backgrounds import Registration, register
from extractors.errors import ConfigError, ShapeError
from extractors.handeye.known import KnownCamera
from extractors.handeye.problem import N_CAMERA
from packers.plain_files import read_plain

VERSION = "cuepack-calibrations/1"

_CAMERA = ("focal_px", "focal_sigma", "pixel_aspect", "position_sigma_m", "rotation_sigma_deg", "delay_s")


def setup_of(source: Mapping[str, Any]) -> str:
    """The camera set-up of an episode, by its `source` record.

    BridgeData's collection folder, as far as its date, which is one session; else the data set; and the camera.
    """
    parts = PurePosixPath(str(source.get("recorded_as") or source.get("path") or "")).parts
    place = str(source.get("dataset") or "")
    if "raw" in parts[:-1]:
        # .../toykitchen7/many_skills/00/2023-03-15_13-35-33/raw/traj_group0/traj3
        place = "/".join(part for part in parts[: parts.index("raw")] if part != "/") or place
    return f"{place}:{source.get('camera')}"


@dataclass(frozen=True, slots=True)
class SetUp:
    """One camera that stayed where it was, and what its episodes together tell of it.

    Attributes:
        name: the collection folder (or data set) and the camera, with a number where it was bumped.
        setup: the same without the number.
        episodes: ids of those it was solved from.
        size: (height, width) of the packets.
        rig: "fixed" or "wrist".
        background: grey picture of the still scene, base64 of uint8, and its (height, width).
        camera: its numbers as in a packet's report; None where nothing was solved.
        reasons: why it must not be used; () where it may.
        left_out: episode id -> residual in pixels before the camera that the others tell.
        apart: episodes that were put elsewhere, and why.
        one_camera: the user says that the camera stood still, whatever the backgrounds say.
    """

    name: str
    setup: str
    episodes: tuple[str, ...]
    size: tuple[int, int]
    rig: str
    background: str
    background_size: tuple[int, int]
    camera: Mapping[str, Any] | None
    reasons: tuple[str, ...] = ()
    left_out: Mapping[str, float | None] = field(default_factory=dict)
    apart: Mapping[str, str] = field(default_factory=dict)
    one_camera: bool = False

    @property
    def picture(self) -> NDArray[np.uint8]:
        """(h, w) grey, the still scene."""
        data = np.frombuffer(base64.b64decode(self.background), np.uint8)
        return data.reshape(self.background_size)

    def seen_from(self, background: NDArray[np.uint8]) -> Registration | None:
        """How an episode's background registers with this one; None where the sizes cannot be compared."""
        try:
            return register(self.picture, background)
        except ShapeError:
            return None

    def known(self, width: int) -> KnownCamera:
        """The camera for packets `width` pixels wide."""
        assert self.camera is not None
        return KnownCamera(
            float(self.camera["focal_px"]) * width / self.size[1],
            np.asarray(self.camera["carrier_from_camera"], np.float64),
            float(self.camera["delay_s"]),
            np.asarray(self.camera["covariance"], np.float64),
        )


def encode_picture(picture: NDArray[np.uint8]) -> str:
    """A grey picture as text."""
    return base64.b64encode(np.ascontiguousarray(picture).tobytes()).decode()


def as_text(set_ups: Sequence[SetUp]) -> str:
    """The file's content; equal set-ups give equal bytes."""
    rows = [asdict(each) for each in sorted(set_ups, key=lambda each: each.name)]
    return json.dumps({"version": VERSION, "set_ups": rows}, indent=1, sort_keys=True) + "\n"


def read_calibrations(path: Path) -> tuple[list[SetUp], str]:
    """The set-ups of a file and the sha256 of its bytes.

    Raises:
        ConfigError: it cannot be read, or holds something else.
    """
    try:
        raw = read_plain(path)
        content = json.loads(raw)
        if content["version"] != VERSION:
            raise ValueError(f"wanted version {VERSION}, got {content['version']}")
        set_ups = [_set_up(row) for row in content["set_ups"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"calibrations {path} cannot be read ({error}); make them with `cuepack calibrate SOURCE --out {path}`"
        ) from error
    return set_ups, hashlib.sha256(raw).hexdigest()


def find_set_up(
    set_ups: Sequence[SetUp], setup: str, episode_id: str, background: NDArray[np.uint8], rig: str
) -> tuple[SetUp | None, str]:
    """The set-up that an episode was recorded with, or why none is.

    An episode that a set-up was solved from has it. Another is compared by its still background, so that it goes to
    the right part of a camera that was bumped, or to none.
    """
    of_name = [each for each in set_ups if each.setup == setup and each.rig == rig]
    if not of_name:
        there = ", ".join(sorted({each.setup for each in set_ups})[:5])
        return None, f"the file has no set-up '{setup}' ({rig} camera), only {there or 'none'}"
    for each in of_name:
        if episode_id in each.apart:
            return None, each.apart[episode_id]
        if episode_id in each.episodes:
            return each, ""
    if rig == "wrist" or of_name[0].one_camera:
        return of_name[0], ""
    seen = [(found.moved, each) for each in of_name if (found := each.seen_from(background)) and found.same_view]
    if not seen:
        return None, f"the still background is that of no part of '{setup}': its camera was bumped since"
    return min(seen, key=lambda pair: pair[0])[1], ""


def _set_up(row: Mapping[str, Any]) -> SetUp:
    height, width = (int(side) for side in row["size"])
    rows, columns = (int(side) for side in row["background_size"])
    found = SetUp(
        name=str(row["name"]),
        setup=str(row["setup"]),
        episodes=tuple(str(name) for name in row["episodes"]),
        size=(height, width),
        rig=str(row["rig"]),
        background=str(row["background"]),
        background_size=(rows, columns),
        camera=row["camera"],
        reasons=tuple(str(reason) for reason in row["reasons"]),
        left_out=dict(row["left_out"]),
        apart=dict(row["apart"]),
        one_camera=bool(row["one_camera"]),
    )
    if found.rig not in ("fixed", "wrist") or found.picture.shape != (rows, columns):
        raise ValueError(f"set-up {found.name}: its rig or its background is not one")
    if found.camera is not None:
        numbers = [float(found.camera[name]) for name in _CAMERA]
        pose, covariance = np.asarray(found.camera["carrier_from_camera"]), np.asarray(found.camera["covariance"])
        if pose.shape != (4, 4) or covariance.shape != (N_CAMERA, N_CAMERA):
            raise ValueError(f"set-up {found.name}: its camera has no pose (4, 4) and covariance (12, 12)")
        if not (np.isfinite(numbers).all() and np.isfinite(pose).all() and np.isfinite(covariance).all()):
            raise ValueError(f"set-up {found.name}: its camera is not finite")
    return found
