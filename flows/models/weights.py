"""Which checkpoints the backends need, where they come from, and where they are looked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path

from extractors.errors import WeightsError
from packers.atomic import written_whole

OPEN_LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One file of weights, or one folder of weights, configuration and tokenizer.

    Attributes:
        name: as in the configuration and the `stages` record.
        backend: the backend that loads it.
        repository: Hugging Face hub repository, or where else it comes from.
        file: file name in the repository, and in the model folder under `name`.
        licence: what the weights may be used for.
        gated: whether the hub asks for access to be granted first.
        without: the way on without it.
        also: patterns of the other files of a folder; with none, the checkpoint is the one file.
        sha256: of the published file, "" where no trusted publisher gives it: the local file is then "unpinned".
        host: the Hugging Face "hub"; "web" where https://repository/file is the file; "other" cannot be fetched.
    """

    name: str
    backend: str
    repository: str
    file: str
    licence: str
    gated: bool = False
    without: str = "--profile cpu needs no weights"
    also: tuple[str, ...] = ()
    host: Literal["hub", "web", "other"] = "hub"
    sha256: str = ""

    @property
    def is_open(self) -> bool:
        """Whether anyone may use the weights for anything, companies included."""
        return self.licence in OPEN_LICENCES


_PUBLISHED = {
    "sam_vit_b_01ec64.pth": "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    "video_depth_anything_vits.pth": "13379300b739e659f076a59d52e9801bd8d38c541a7e71f73bbca4dcfb013609",
}
"""sha256 of published files. Ten public repositories each state the same for them (looked up in November 2026)."""


def _video_depth_anything(size: str, title: str, licence: str, *, metric: bool) -> Checkpoint:
    prefix = "metric_" if metric else ""
    return Checkpoint(
        name=f"{prefix}video_depth_anything_{size}",
        backend="video-depth-anything",
        repository=f"depth-anything/{'Metric-' if metric else ''}Video-Depth-Anything-{title}",
        file=f"{prefix}video_depth_anything_{size}.pth",
        licence=licence,
        sha256=_PUBLISHED.get(f"{prefix}video_depth_anything_{size}.pth", ""),
        without="--set depth.backend=off, or --profile cpu, needs no weights",
    )


_MODEL_FILES = (
    "config.json",
    "*processor_config.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
)


def _open_masks(name: str, repository: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        backend="grounded-sam",
        repository=repository,
        file="model.safetensors",
        licence="Apache-2.0",
        without="masks.backend=nano (--profile cpu) needs no weights",
        also=_MODEL_FILES,
    )


def _tapir(name: str, file: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        backend="tapir",
        repository="storage.googleapis.com/dm-tapnet/bootstap",
        file=file,
        licence="Apache-2.0",
        without="--set tracks.backend=lucas-kanade, or --profile cpu, needs no weights",
        host="web",
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
        Checkpoint(
            name="sam3",
            backend="sam3",
            repository="facebook/sam3",
            file="model.safetensors",
            licence="SAM License (Meta, not open source)",
            gated=True,
            without="masks.backend=grounded-sam has open weights, masks.backend=nano (--profile cpu) needs none",
            also=_MODEL_FILES,
        ),
        _open_masks("grounding-dino-tiny", "IDEA-Research/grounding-dino-tiny"),
        _open_masks("sam-vit-base", "facebook/sam-vit-base"),
        Checkpoint(
            name="segment-anything",
            backend="segment-anything",
            repository="github.com/facebookresearch/segment-anything",
            file="sam_vit_b_01ec64.pth",
            licence="Apache-2.0",
            without="masks.segmenter=sam takes facebook/sam-vit-base from the hub instead",
            sha256=_PUBLISHED["sam_vit_b_01ec64.pth"],
            host="other",
        ),
        _tapir("tapir", "bootstapir_checkpoint_v2.pt"),
        _tapir("tapir-online", "causal_bootstapir_checkpoint.pt"),
        *(_video_depth_anything(size, title, licence, metric=False) for size, title, licence in _SIZES),
        *(_video_depth_anything(size, title, licence, metric=True) for size, title, licence in _SIZES),
    )
}


_GATE = "it is gated: ask for access on its hub page, then set HF_TOKEN or run `hf auth login`"


def model_folder() -> Path:
    """Where checkpoints are kept: $CUEPACK_MODELS, else ~/.cache/cuepack/models."""
    return Path(os.environ.get("CUEPACK_MODELS") or user_cache_path("cuepack") / "models")


def is_here(name: str) -> bool:
    """Whether a checkpoint is in the model folder."""
    try:
        checkpoint_path(name)
    except WeightsError:
        return False
    return True


def recorded_digest(name: str) -> str | None:
    """The sha256 that was recorded when a checkpoint was fetched, None where it was put there by other means."""
    path = checkpoint_file(name)
    record = _record_path(path.parent if CHECKPOINTS[name].also else path)
    return record.read_text().strip() if record.is_file() else None


def checkpoint_file(name: str) -> Path:
    """The path of a checkpoint in the model folder, whether or not the file exists."""
    checkpoint = CHECKPOINTS[name]
    return model_folder() / checkpoint.name / checkpoint.file


def checkpoint_path(name: str, override: str | None = None) -> Path:
    """The file of a checkpoint on this machine, or its folder where it is more than one file.

    Args:
        name: a key of `CHECKPOINTS`.
        override: the path the configuration names, if any.

    Raises:
        WeightsError: it is not there; the message says which, where to get it, its licence, and the way on.
    """
    checkpoint = CHECKPOINTS[name]
    path = Path(override).expanduser() if override else checkpoint_file(name)
    if checkpoint.also:
        path = path if override else path.parent
        is_present = (path / "config.json").is_file() and any(path.glob("*.safetensors"))
    else:
        is_present = path.is_file()
    if not is_present:
        raise WeightsError(
            f"weights for {checkpoint.backend} not found: {path}. Get {_source(checkpoint)}, licence "
            f"{checkpoint.licence}; {checkpoint.without}"
        )
    return path


def _source(checkpoint: Checkpoint) -> str:
    """Where a checkpoint comes from, and how."""
    if checkpoint.host == "other":
        return f"{checkpoint.file} from {checkpoint.repository} and name it with the section's key weights"
    if checkpoint.host == "web":
        return f"{checkpoint.file} from https://{checkpoint.repository} with `cuepack models fetch {checkpoint.name}`"
    what = f"{checkpoint.file} with its configuration" if checkpoint.also else checkpoint.file
    gate = f" ({_GATE})" if checkpoint.gated else ""
    return f"{what} from the hub repository {checkpoint.repository}{gate} with `cuepack models fetch {checkpoint.name}`"


def fetch_checkpoint(name: str) -> Path:
    """Downloads a checkpoint and records its sha256 beside it.

    Raises:
        WeightsError: the hub, or what else holds it, cannot be reached, or refuses.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import GatedRepoError

    checkpoint, target = CHECKPOINTS[name], checkpoint_file(name)
    if checkpoint.host == "other":
        raise WeightsError(f"{name} is not on the hub: get {_source(checkpoint)}; {checkpoint.without}")
    by_hand = f"get {checkpoint.file} from {checkpoint.repository} on another machine and put it at {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.host == "web":
            path = _download(f"https://{checkpoint.repository}/{checkpoint.file}", target)
        elif checkpoint.also:
            files = [checkpoint.file, *checkpoint.also]
            path = Path(snapshot_download(checkpoint.repository, allow_patterns=files, local_dir=target.parent))
        else:
            path = Path(hf_hub_download(checkpoint.repository, checkpoint.file, local_dir=target.parent))
    except GatedRepoError as error:
        raise WeightsError(
            f"{checkpoint.repository} refused the download, {_GATE}; licence {checkpoint.licence}; {checkpoint.without}"
        ) from error
    except Exception as error:  # the client raises many kinds for one thing: no file came
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise WeightsError(
            f"{name} cannot be fetched from {checkpoint.repository} ({reason}); {by_hand}, or {checkpoint.without}"
        ) from error
    digest = checkpoint_digest(path)
    if not is_published(name, digest):
        path.unlink()
        raise WeightsError(
            f"what {checkpoint.repository} sent for {name} is not the published file: wanted sha256 "
            f"{checkpoint.sha256}, got {digest}; it was removed; {by_hand}, or {checkpoint.without}"
        )
    _record_path(path).write_text(digest + "\n")
    return path


def _download(url: str, target: Path) -> Path:
    """The file at `url`, put in its place when it is whole."""
    with urllib.request.urlopen(url, timeout=60) as answer, written_whole(target) as temporary:
        promised = answer.headers.get("Content-Length")
        with temporary.open("wb") as file:
            shutil.copyfileobj(answer, file, 2**20)
        if promised is not None and temporary.stat().st_size != int(promised):
            raise ConnectionError(f"wanted {promised} bytes, {temporary.stat().st_size} came")
    return target


def check_checkpoint(name: str) -> str:
    """Loads a checkpoint as its backend would; returns its sha256.

    Raises:
        WeightsError: it is missing, of another model, truncated, or differs from what was fetched or published.
    """
    path = checkpoint_path(name)
    digest = checkpoint_digest(path)
    record = _record_path(path)
    if record.exists() and record.read_text().strip() != digest:
        raise WeightsError(f"{path} has changed since it was fetched; `cuepack models fetch {name}` gets it again")
    if not is_published(name, digest):
        raise WeightsError(
            f"{path} is not the published {CHECKPOINTS[name].file}: wanted sha256 {CHECKPOINTS[name].sha256}, got "
            f"{digest}; `cuepack models fetch {name}` gets it, and weights of your own are named in the configuration"
        )
    load = _LOADERS[CHECKPOINTS[name].backend]
    load(name, path)
    return digest


def is_published(name: str, digest: str) -> bool:
    """Whether a checkpoint of this sha256 is, or may be, the published one; False where it is known to be another."""
    return CHECKPOINTS[name].sha256 in ("", digest)


def checkpoint_digest(path: Path) -> str:
    """Sha256 of a checkpoint; each file is read once per process while its size and time stay the same.

    A folder's is that of lines "sha256  name" of its weights, configuration and tokenizer files, in name order.
    """
    if path.is_dir():
        patterns = ("*.safetensors", "*.safetensors.index.json", *_MODEL_FILES)
        files = sorted({file for pattern in patterns for file in path.glob(pattern) if file.is_file()})
        lines = "".join(f"{checkpoint_digest(file)}  {file.name}\n" for file in files)
        return hashlib.sha256(lines.encode()).hexdigest()
    status = path.stat()
    return _digest(str(path), status.st_size, status.st_mtime_ns)


def _record_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _load_cotracker(name: str, path: Path) -> None:
    from extractors.build import TRACKERS

    TRACKERS["cotracker3"](weights=path, device="cpu")


def _load_tapir(name: str, path: Path) -> None:
    from extractors.build import TRACKERS

    TRACKERS["tapir"](weights=path, device="cpu", causal=name == "tapir-online")


def _load_depth(name: str, path: Path) -> None:
    from extractors.build import DEPTH_ESTIMATORS

    metric, size = name.startswith("metric_"), name.rsplit("_", 1)[-1]
    DEPTH_ESTIMATORS["video-depth-anything"](size=size, metric=metric, weights=path, device="cpu")


def _load_sam3(name: str, path: Path) -> None:
    from extractors.backends.sam3 import Sam3

    Sam3(weights=path, device="cpu", precision="fp32")


def _load_grounded_sam(name: str, path: Path) -> None:
    from extractors.backends.grounded_sam import GroundingDino
    from extractors.backends.segment_anything import TransformersSam

    if name == "sam-vit-base":
        TransformersSam(weights=path, device="cpu", precision="fp32")
    else:
        GroundingDino(weights=path, device="cpu")


def _load_segment_anything(name: str, path: Path) -> None:
    from extractors.backends.segment_anything import SegmentAnything

    SegmentAnything(weights=path, device="cpu")


_LOADERS: dict[str, Callable[[str, Path], None]] = {
    "sam3": _load_sam3,
    "grounded-sam": _load_grounded_sam,
    "segment-anything": _load_segment_anything,
    "cotracker3": _load_cotracker,
    "tapir": _load_tapir,
    "video-depth-anything": _load_depth,
}


@lru_cache(maxsize=64)
def _digest(path: str, size: int, mtime_ns: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
