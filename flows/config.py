"""The configuration: defaults, a YAML file over them, `--set section.key=value` over that."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from extractors.cameras import CAMERA_MODELS
from extractors.contact import ContactRule
from extractors.errors import ConfigError
from extractors.prompts import DEFAULT_PROMPTS
from scoring.settings import ScoringSettings

log = logging.getLogger(__name__)

Profile = Literal["auto", "cpu", "gpu", "gpu-open"]

StageName = Literal["masks", "depth", "tracks", "calibration", "geometry", "placing", "quality", "pack"]
"""The stages that a rerun can begin with: those of `flows.stages.STAGES` but the first, and the last, `pack`. They are
listed here too, so that the command line's help loads no stage; a test compares both lists."""

_PROFILES: dict[str, dict[str, str]] = {
    "cpu": {"masks": "nano", "depth": "nano", "tracks": "lucas-kanade"},
    "gpu": {"masks": "sam3", "depth": "video-depth-anything", "tracks": "cotracker3"},
    "gpu-open": {"masks": "grounded-sam", "depth": "video-depth-anything", "tracks": "tapir"},
}


class Section(BaseModel):
    """A frozen group of settings that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _yaml_off(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


def _masks_backend(value: Any) -> Any:
    """`motion` is the name of what nano's masks have taken the place of."""
    if value != "motion":
        return _yaml_off(value)
    log.warning("masks.backend=motion is nano now: a small network sees the object, the robot and other things")
    return "nano"


MasksBackend = Annotated[
    Literal["profile", "nano", "recorded", "sam3", "grounded-sam", "off"], BeforeValidator(_masks_backend)
]
Prompt = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
DepthBackend = Annotated[
    Literal["profile", "nano", "video-depth-anything", "recorded", "off"], BeforeValidator(_yaml_off)
]
TracksBackend = Annotated[Literal["profile", "lucas-kanade", "cotracker3", "tapir", "off"], BeforeValidator(_yaml_off)]


def _column_names(value: Any) -> Any:
    """One column may be named without a list."""
    return (value,) if isinstance(value, str) else value


ColumnNames = Annotated[tuple[Prompt, ...], BeforeValidator(_column_names)]


class ColumnsConfig(Section):
    """Which columns of a LeRobot dataset are taken, where they are not named as LeRobot names them."""

    action: ColumnNames = Field((), description="column of commands, or a list joined in order; none: action")
    state: ColumnNames = Field((), description="column of proprioception, or a list; none: observation.state")
    gripper: ColumnNames = Field((), description="column of the gripper alone; none: by name in state and action")


class SourceConfig(Section):
    """How the source is read."""

    columns: ColumnsConfig = ColumnsConfig()
    gripper_open: Literal["auto", 0, 1] = Field(
        "auto",
        description="gripper value of an open hand in the source: 0, 1, or auto: from names, the robot, else the data",
    )
    trim: Literal["off", "start", "end"] = Field(
        "off", description="pictures that a video has more than rows: refused, or dropped at its start or end"
    )
    follow_links: bool = Field(False, description="look into linked folders too, which may be outside the source")


class PacketConfig(Section):
    """The size of what is packed."""

    height: int = Field(224, ge=8, le=2048, description="packet height, pixels")
    width: int = Field(224, ge=8, le=2048, description="packet width, pixels")


class MasksConfig(Section):
    """Object masks."""

    backend: MasksBackend = Field(
        "profile", description="what segments the object; `profile` takes the profile's choice"
    )
    dilate: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field(
        (8, 20), description="radii of the dilated variants, packet pixels"
    )
    repair: bool = Field(False, description="close single-frame holes and drop single-frame spikes")
    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)] = Field(
        DEFAULT_PROMPTS, description="texts asked for; {object} is the instruction's noun phrase"
    )
    choose: Literal["best", "first"] = Field(
        "best",
        description="best: what overlaps most with what nano sees handled; first: the first prompt found",
    )
    robot_prompt: Prompt | None = Field(None, description="text for the arm, packed as masks/robot; none: not packed")
    plan: Literal["video", "frames"] = Field(
        "video", description="sam3: its tracker, or its image model on key frames with optical flow between (cheaper)"
    )
    every: int = Field(5, ge=1, le=1000, description="frames between key frames (grounded-sam, and sam3's plan frames)")
    max_objects: int = Field(16, ge=1, le=1000, description="objects followed at once, over all prompts")
    threshold: float | None = Field(None, gt=0, lt=1, description="least score of a detection; none: the model's own")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on a CUDA device")
    segmenter: Literal["sam", "segment-anything"] = Field(
        "sam", description="grounded-sam: masks by transformers' SAM, or by Meta's package from its .pth files"
    )
    weights: str | None = Field(
        None, description="folder of sam3 or sam (.pth of segment-anything); none: model folder"
    )
    detector_weights: str | None = Field(None, description="folder of Grounding DINO; none: the model folder")
    nano_working_px: int = Field(160, ge=64, le=512, description="nano: longer side that its network sees, pixels")


class DepthConfig(Section):
    """Depth; what the source records is stored as depth/metric whatever the backend."""

    backend: DepthBackend = Field("profile", description="what estimates depth; `profile` takes the profile's choice")
    model: Literal["vits", "vitb", "vitl"] = Field("vits", description="size of Video-Depth-Anything")
    metric: bool = Field(False, description="use the metric variant of the weights")
    weights: str | None = Field(
        None, description="checkpoint file; none: the model folder (see `cuepack models`), of nano the packaged one"
    )
    input_size: int = Field(518, ge=28, multiple_of=14, description="shorter side that the network sees, pixels")
    precision: Literal["fp32", "fp16"] = Field("fp32", description="fp16 needs a CUDA device")
    nano_working_px: int = Field(160, ge=64, le=512, description="nano: longer side that its network sees, pixels")
    stabilize: bool = Field(True, description="anchor the still background (static cameras)")


class TracksConfig(Section):
    """Point tracks."""

    backend: TracksBackend = Field("profile", description="what follows points; `profile` takes the profile's choice")
    grid_side: int = Field(20, ge=1, le=64, description="the uniform grid has grid_side x grid_side points")
    count: int = Field(400, ge=1, le=10_000, description="points of the foreground-biased set")
    share: float = Field(0.6, ge=0, le=1, description="share of the foreground-biased set that is on the object")
    background: Literal["grid", "own"] = Field(
        "grid",
        description="background points of the foreground-biased set: the grid's tracks, or posed and tracked with it",
    )
    min_object_tracks: int = Field(47, ge=0, description="object points that should be visible where the object is")
    robot: int = Field(
        240,
        ge=0,
        le=10_000,
        description="points on the robot, where the source records a state, to calibrate the camera; 0: none",
    )
    seed: int = Field(0, ge=0, description="fixes the draw of the foreground-biased set and of the robot's")
    threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="visible: a score above this; none: 0.6 (cotracker3), 0.5 (tapir), 0.3 (lucas-kanade)",
    )
    visible_by: Literal["both", "visibility"] = Field(
        "both", description="the score of cotracker3 and tapir: visibility x confidence, or visibility alone"
    )
    iterations: int | None = Field(
        None, ge=1, le=32, description="refinements; none: as published, 6 (cotracker3), 4 a level (tapir)"
    )
    support_grid: int = Field(6, ge=0, le=20, description="cotracker3 tracks this grid along (side); 0: none")
    support_for: Literal["all", "explicit"] = Field(
        "all", description="query sets that cotracker3's support grid goes along with; explicit: not the uniform grid"
    )
    causal: bool = Field(False, description="tapir: the weights are those of its online variant, which looks back only")
    tapir_px: int = Field(
        256,
        ge=256,
        le=1024,
        multiple_of=8,
        description="side of the square that tapir sees, pixels; 512 is refined on two levels, for five times the work",
    )
    window_frames: int | None = Field(
        None,
        ge=16,
        description="cotracker3 and tapir see longer clips in windows of so many frames, each holding 8 MB (tapir: 3.4 "
        "MB) of features a frame; none: whole, as published",
    )
    weights: str | None = Field(None, description="checkpoint file of cotracker3 or tapir; none: the model folder")
    precision: Literal["fp32", "fp16"] = Field("fp32", description="fp16 needs a CUDA device")


def _file_digest(setting: str, file: Path, remedy: str) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"{setting}: {file} cannot be read ({error}); {remedy}") from error


class RobotConfig(Section):
    """Where the hand's pose is in the state, where its names do not say."""

    state_names: ColumnNames = Field((), description="names of the state's numbers (x, y, z, roll, ...); none: its own")
    prefix: Prompt | None = Field(None, description="the hand meant where there are several: its names begin so")
    length_unit: Literal["m", "cm", "mm"] = Field("m", description="of the hand's position in the state")
    angle_unit: Literal["rad", "deg"] = Field("rad", description="of angles in the state")
    urdf: str | None = Field(None, description="URDF file of a robot whose state holds joint values; none: poses")
    urdf_sha256: str | None = Field(None, description="of that file; filled in when a run begins")
    joints: ColumnNames = Field((), description="URDF joint of each of the state's numbers; -: no joint")
    hand_link: Prompt | None = Field(
        None, description="the hand's link in the URDF; none: the last one, if it is clear"
    )

    def pinned(self) -> RobotConfig:
        """The same with the sha256 of the URDF file as it is now.

        Raises:
            ConfigError: the file cannot be read.
        """
        digest = None if self.urdf is None else _file_digest("robot.urdf", Path(self.urdf), "name the robot's file")
        return self.model_copy(update={"urdf_sha256": digest})


class GeometryConfig(Section):
    """Intrinsics, centroids and shape."""

    intrinsics: tuple[float, float, float, float] | None = Field(
        None, description="fx, fy, cx, cy at source resolution (pixels), where you know them"
    )
    camera_model: str | None = Field(None, description="a camera of the table in extractors/cameras.py, such as c920")
    field_of_view: float = Field(60.0, gt=1, lt=179, description="assumed horizontal field of view, degrees")
    assumed_sigma: float = Field(0.2, gt=0, lt=1, description="relative focal uncertainty of the assumed field of view")
    calibration_sigma: float = Field(0.01, ge=0, lt=1, description="that of a calibration that states none")
    native_size: tuple[int, int] | None = Field(
        None, description="(height, width) that the camera delivered, where the source's frames are a squash of it"
    )
    centroid: Literal["robust", "mean"] = Field("robust", description="how masked depth becomes a centroid")
    depth_sigma: float | None = Field(
        None, gt=0, description="relative uncertainty of depth; none: 0.02 for metric depth, 0.05 for relative"
    )
    calibration: Annotated[str, BeforeValidator(_yaml_off), StringConstraints(min_length=1)] = Field(
        "auto",
        description="of the camera by the hand's motion: auto: each clip by itself; off; or the file of `calibrate`",
    )
    calibration_sha256: str | None = Field(None, description="of that file; filled in when a run begins")
    mask_sigma_px: float = Field(0.5, ge=0, description="uncertainty of the mask's border, packet pixels")

    @property
    def calibration_file(self) -> Path | None:
        """The file of `cuepack calibrate` that is to be used."""
        return None if self.calibration in ("auto", "off") else Path(self.calibration)

    def pinned(self) -> GeometryConfig:
        """The same with the sha256 of the calibrations' file as it is now.

        Raises:
            ConfigError: the file cannot be read.
        """
        file, remedy = self.calibration_file, "make it with `cuepack calibrate`, or set auto or off"
        digest = None if file is None else _file_digest("geometry.calibration", file, remedy)
        return self.model_copy(update={"calibration_sha256": digest})

    @field_validator("camera_model")
    @classmethod
    def _known_model(cls, name: str | None) -> str | None:
        if name is not None and name not in CAMERA_MODELS:
            raise ValueError(f"no camera model named '{name}'{_nearest(name, CAMERA_MODELS)}")
        return name

    @field_validator("intrinsics")
    @classmethod
    def _possible(cls, given: tuple[float, float, float, float] | None) -> tuple[float, float, float, float] | None:
        if given is not None and (not all(math.isfinite(value) for value in given) or min(given[:2]) <= 0):
            raise ValueError("wanted fx, fy, cx, cy: finite, focal lengths above 0")
        return given


class SelectConfig(Section):
    """Which clips are packed."""

    min_score: float | None = Field(
        None, ge=0, le=1, description="clips scoring below are filtered (their earlier packets stay); none: keep all"
    )


class RunConfig(Section):
    """How the work is done; nothing here changes a packet by more than rounding (see `deterministic`)."""

    profile: Profile = Field(
        "auto",
        description="gpu = sam3 + video-depth-anything + cotracker3; gpu-open = grounded-sam + video-depth-anything + "
        "tapir, licences that anyone may use; cpu = nano + nano + "
        "lucas-kanade, whose weights are packaged",
    )
    workers: int = Field(0, ge=0, le=256, description="episodes worked on at once; 0: one per CPU core")
    threads: int = Field(
        0, ge=0, le=256, description="threads of torch, OpenCV, BLAS and decoders for each episode; 0: cores / workers"
    )
    processes: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether stages run in a process per worker and not in threads; auto: where no network needs a "
        "checkpoint and there are at least 4 episodes a worker",
    )
    memory_gb: float = Field(
        0, ge=0, description="of the frames of all episodes under way, GB; 0: half of what the machine has"
    )
    deterministic: bool = Field(
        False, description="one thread an episode and one clip a batch: equal bytes whatever is worked on beside it"
    )
    shard_size: int = Field(64, ge=1, le=10_000, description="episodes per shard (one flow run)")
    engine: Literal["local", "ray", "dask", "workers"] = Field(
        "local", description="where shards run; workers: Prefect workers, through the deployment extract-shard"
    )
    engine_address: str | None = Field(None, description="Ray or Dask cluster; none: one is started on this machine")
    in_flight: int = Field(2, ge=1, le=1000, description="shards under way at once on ray, dask and workers")
    keep_local: bool = Field(False, description="--out URI: keep the packets put there in the cache too, to look at")

    @property
    def wants_gpu(self) -> bool:
        """Whether the profile's models want a CUDA device; of a resolved configuration."""
        return self.profile.startswith("gpu")


class Config(Section):
    """Everything a run can be told."""

    source: SourceConfig = SourceConfig()
    packet: PacketConfig = PacketConfig()
    masks: MasksConfig = MasksConfig()
    depth: DepthConfig = DepthConfig()
    tracks: TracksConfig = TracksConfig()
    robot: RobotConfig = RobotConfig()
    geometry: GeometryConfig = GeometryConfig()
    contact: ContactRule = ContactRule()
    scoring: ScoringSettings = ScoringSettings()
    select: SelectConfig = SelectConfig()
    run: RunConfig = RunConfig()

    def resolved(self) -> Config:
        """The same with files pinned and the profile's choices filled in; `auto` takes `gpu` with a CUDA device."""
        profile = self.run.profile
        if profile == "auto":
            profile = "gpu" if _cuda_is_available() else "cpu"
        changes: dict[str, Any] = {
            "run": self.run.model_copy(update={"profile": profile}),
            "robot": self.robot.pinned(),
            "geometry": self.geometry.pinned(),
        }
        for signal, backend in _PROFILES[profile].items():
            section = getattr(self, signal)
            if section.backend == "profile":
                changes[signal] = section.model_copy(update={"backend": backend})
        return self.model_copy(update=changes)

    def keyed(self) -> dict[str, Any]:
        """The sections that enter stage keys, as JSON types: what a packet's `config` attribute holds."""
        where_files_lie = {"weights", "detector_weights"}
        # A file counts by its content: the same file elsewhere makes the same packets.
        found = self.model_dump(
            mode="json",
            exclude={
                "run": True,
                "select": True,
                "source": {"follow_links"},
                "masks": where_files_lie,
                "depth": where_files_lie,
                "tracks": where_files_lie,
                "robot": {"urdf"},
            },
        )
        if self.geometry.calibration_file is not None:
            found["geometry"]["calibration"] = "file"
        return found

    def digest(self) -> str:
        """Sha256 of `keyed()`."""
        return hashlib.sha256(json.dumps(self.keyed(), sort_keys=True).encode()).hexdigest()


NAMES_PLACES = frozenset(
    {
        ("masks", "weights"),
        ("masks", "detector_weights"),
        ("depth", "weights"),
        ("tracks", "weights"),
        ("source", "follow_links"),
        ("geometry", "calibration"),
        ("robot", "urdf"),
        ("run", "engine"),
        ("run", "engine_address"),
    }
)
"""Settings that name files or machines, or lead out of the source: (section, key). Runs that somebody starts through a
server's API take these from whoever started the server (flows/orchestration/served.py)."""


def load_config(file: Path | None = None, assignments: Iterable[str] = (), base: Config | None = None) -> Config:
    """Defaults (or `base`), then `file`, then each `section.key=value`.

    Raises:
        ConfigError: the file cannot be read, a name is unknown (the nearest valid one is named), a value is refused.
    """
    values = (base or Config()).model_dump(mode="python")
    if file is not None:
        _merge(values, _read_yaml(file), where=str(file))
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        parts = name.strip().split(".")
        if not separator or len(parts) < 2 or not all(parts):
            raise ConfigError(
                f"--set wants section.key=value, got {assignment!r}; for example --set masks.dilate=[4,12]"
            )
        try:
            # The descriptions say "none", YAML says "null".
            value = None if text.strip() == "none" else yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not YAML ({error}); quote it") from error
        for part in reversed(parts[1:]):
            value = {part: value}
        _merge(values, {parts[0]: value}, where=f"--set {assignment}")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def _merge(values: dict[str, Any], changes: Mapping[str, Any], *, where: str) -> None:
    for section, settings in changes.items():
        if section not in values:
            raise ConfigError(f"{where}: no section named '{section}'{_nearest(str(section), values)}")
        if settings is None:
            continue
        if not isinstance(settings, Mapping):
            raise ConfigError(f"{where}: section '{section}' wants keys with values, got {settings!r}")
        for key, value in settings.items():
            if key not in values[section]:
                raise ConfigError(
                    f"{where}: no key '{key}' in section '{section}'{_nearest(str(key), values[section])}"
                )
            if isinstance(values[section][key], dict):
                # Settings that belong together, such as source.columns, are a section in a section.
                _merge(values[section], {key: value}, where=where)
            else:
                values[section][key] = value


_RETIRED = {
    "black_level": "; a black frame is the same everywhere now (extractors/cuts.py)",
    "camera_px": "; whether the camera moves is measured once, on the clip's pictures (extractors/camera_motion.py)",
    "slow_px": "; did you mean 'slow_speed' (widths per second)?",
    "jerk_rows": "; did you mean 'jerk_least_s' (seconds)?",
    **dict.fromkeys(
        ("motion_working_px", "motion_max_candidates", "motion_min_score"),
        "; nano's network draws the masks and has no such setting: leave it out",
    ),
}
"""Keys of earlier versions whose nearest name would mislead, and what became of them."""


def _nearest(name: str, valid: Iterable[str]) -> str:
    if name in _RETIRED:
        return _RETIRED[name]
    names = sorted(valid)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; choose one of {names}"


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {file} cannot be read: {error}") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"configuration file {file} is not YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"configuration file {file} wants sections with keys, got {type(content).__name__}")
    return content


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors():
        name = ".".join(str(part) for part in problem["loc"])
        given = problem["input"]
        hint = ""
        if problem["type"] == "literal_error" and isinstance(given, str):
            names = [part.strip("' ") for part in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
            hint = _nearest(given, names)
        lines.append(f"{name}: {problem['msg']}, got {given!r}{hint}")
    return "; ".join(lines)


def _cuda_is_available() -> bool:
    import torch

    return torch.cuda.is_available()
