"""Which checkpoints the backends need, where they come from, and where they are looked for."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from extractors.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file of weights.

    Attributes:
        name: as in the configuration and the `stages` record.
        backend: the backend that loads it.
        repository: Hugging Face hub repository.
        file: file name in the repository, and in the model folder under `name`.
        licence: what the weights may be used for.
        gated: whether the hub asks for access to be granted first.
        without: the way on without it.
    """

    name: str
    backend: str
    repository: str
    file: str
    licence: str
    gated: bool = False
    without: str = "--profile cpu needs no weights"


def _video_depth_anything(size: str, title: str, licence: str, *, metric: bool) -> Checkpoint:
    prefix = "metric_" if metric else ""
    return Checkpoint(
        name=f"{prefix}video_depth_anything_{size}",
        backend="video-depth-anything",
        repository=f"depth-anything/{'Metric-' if metric else ''}Video-Depth-Anything-{title}",
        file=f"{prefix}video_depth_anything_{size}.pth",
        licence=licence,
        without="--set depth.backend=off, or --profile cpu, needs no weights",
    )


_SIZES = (("vits", "Small", "Apache-2.0"), ("vitb", "Base", "CC-BY-NC-4.0"), ("vitl", "Large", "CC-BY-NC-4.0"))

CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            name="cotracker3",
            backend="cotracker3",
            repository="facebook/cotracker3",
            file="scaled_offline.pth",
            licence="CC-BY-NC-4.0 (non-commercial)",
            without="--set tracks.backend=lucas-kanade, or --profile cpu, needs no weights",
        ),
        *(_video_depth_anything(size, title, licence, metric=False) for size, title, licence in _SIZES),
        *(_video_depth_anything(size, title, licence, metric=True) for size, title, licence in _SIZES),
    )
}


def model_folder() -> Path:
    """Where checkpoints are kept: $CUEPACK_MODELS, else ~/.cache/cuepack/models."""
    return Path(os.environ.get("CUEPACK_MODELS") or Path.home() / ".cache" / "cuepack" / "models")


def checkpoint_path(name: str, override: str | None = None) -> Path:
    """The file of a checkpoint that is here.

    Args:
        name: a key of `CHECKPOINTS`.
        override: the path the configuration names, if any.

    Raises:
        WeightsError: the file is not there; the message says which, where to get it, its licence, and the way on.
    """
    checkpoint = CHECKPOINTS[name]
    path = Path(override).expanduser() if override else model_folder() / checkpoint.name / checkpoint.file
    if not path.is_file():
        gate = " (gated: ask for access on its hub page first)" if checkpoint.gated else ""
        raise WeightsError(
            f"weights for {checkpoint.backend} not found: {path}. Get {checkpoint.file} from the hub repository "
            f"{checkpoint.repository}{gate} with `cuepack models fetch {checkpoint.name}`, licence "
            f"{checkpoint.licence}; {checkpoint.without}"
        )
    return path


def checkpoint_digest(path: Path) -> str:
    """Sha256 of a checkpoint file; read once per process while its size and time stay the same."""
    status = path.stat()
    return _digest(str(path), status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
