"""What this machine can do, and what to do about what it cannot: one screen."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from platformdirs import user_cache_path

from extractors.errors import ConfigError
from flows.config import Profile
from flows.models.build import profile_weights
from flows.models.weights import CHECKPOINTS, checkpoint_file, is_here, model_folder
from flows.orchestration.settings import find_server
from flows.remote.files import cache_folder
from flows.run.machine import memory_gb
from packers.cores import usable_cpus

Grade = Literal["good", "note", "bad"]
Licence = Literal["any", "open"]

LOW_DISK_GB = 10.0
"""A thousand episodes of 40 frames at 224 x 224 take about 2.2 GB, their unfinished stages less."""

LOW_MEMORY_GB = 4.0
"""A worker needs about 0.5 GB on the CPU profile, 3 GB with the small models."""

_WITH_WEIGHTS: tuple[Profile, ...] = ("gpu-open", "gpu")

_VIDEO_CODECS = {"h264": "most LeRobot videos", "av1": "LeRobot v2.1 and v3.0", "hevc": "phone and camera videos"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        grade: "good"; "note": something is missing that only some work needs; "bad": the CPU profile cannot run.
        says: what was found.
        todo: what to do about it, "" where nothing is to be done.
    """

    name: str
    grade: Grade
    says: str
    todo: str = ""


def examine(out: Path, licence: Licence = "any") -> list[Check]:
    """Looks at this machine and at where `out` is going to be written. Changes nothing, downloads nothing.

    `licence`: "open" counts only profiles whose weights anyone may use.
    """
    checks: list[Callable[[], list[Check]]] = [
        _processor,
        _devices,
        _weights,
        lambda: _profiles(licence),
        _codecs,
        _packages,
        _remote,
        _prefect,
        lambda: _disk(out),
    ]
    return [check for look in checks for check in look()]


def format_checks(checks: list[Check]) -> str:
    """The checks as lines for a terminal, the remedies indented below."""
    signs = {"good": "ok  ", "note": "note", "bad": "BAD "}
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{signs[check.grade]} {check.name:{width}}  {check.says}")
        if check.todo:
            lines.append(f"     {'':{width}}  -> {check.todo}")
    return "\n".join(lines)


def _processor() -> list[Check]:
    cores = usable_cpus()
    memory = memory_gb()
    if memory is None:
        return [Check("processor", "good", f"{cores} cores")]
    grade: Grade = "good" if memory >= LOW_MEMORY_GB else "note"
    todo = "" if grade == "good" else "work on one episode at a time: --workers 1"
    return [Check("processor", grade, f"{cores} cores, {memory:.0f} GB of memory", todo)]


def _devices() -> list[Check]:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda
        todo = "--profile cpu needs none" if built else "for a GPU, install a torch that is built for CUDA"
        return [Check("devices", "note", f"no CUDA device (torch {torch.__version__}); profile auto means cpu", todo)]
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        found.append(f"cuda:{index} {properties.name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    todo = "one worker per device: CUDA_VISIBLE_DEVICES=0, =1, ... (docs/operations.md)" if len(found) > 1 else ""
    return [Check("devices", "good", "; ".join(found) + "; profile auto means gpu", todo)]


def _weights() -> list[Check]:
    present = [name for name in CHECKPOINTS if checkpoint_file(name).is_file()]
    missing = [name for name in CHECKPOINTS if name not in present]
    says = f"{len(present)} of {len(CHECKPOINTS)} checkpoints in {model_folder()}"
    says += f": {', '.join(present)}" if present else ""
    if not missing:
        return [Check("weights", "good", says)]
    todo = f"`cuepack models fetch {missing[0]}`, see `cuepack models list`; --profile cpu needs none"
    return [Check("weights", "note", says, todo)]


def _profiles(licence: Licence) -> list[Check]:
    """Which profiles can run here, by their weights and what the weights may be used for."""
    runs, other, missing = ["cpu (no weights)"], [], dict[str, list[str]]()
    for profile in _WITH_WEIGHTS:
        names = profile_weights(profile)
        closed = [f"{name}: {CHECKPOINTS[name].licence}" for name in names if not CHECKPOINTS[name].is_open]
        absent = [name for name in names if not is_here(name)]
        if licence == "open" and closed:
            other.append(f"{profile} is not open ({'; '.join(closed)})")
        elif absent:
            missing[profile] = absent
            other.append(f"{profile} lacks {', '.join(absent)}")
        else:
            runs.append(profile)
    says = f"licence {licence}: {', '.join(runs)} can run"
    todo = [f"{profile}: `cuepack models fetch {' '.join(names)}`" for profile, names in missing.items()]
    return [Check("profiles", "note" if missing else "good", "; ".join([says, *other]), "; ".join(todo))]


def _codecs() -> list[Check]:
    import av
    import h5py

    checks = []
    lacking = [name for name in _VIDEO_CODECS if not _decodes(av, name)]
    if lacking:
        needed = ", ".join(f"{name} ({_VIDEO_CODECS[name]})" for name in lacking)
        checks.append(Check("video", "note", f"cannot decode {needed}", "install an `av` wheel built with it"))
    else:
        checks.append(Check("video", "good", f"decodes {', '.join(_VIDEO_CODECS)} (av {av.__version__})"))
    gzip = bool(h5py.h5z.filter_avail(h5py.h5z.FILTER_DEFLATE))
    checks.append(
        Check("packets", "good", f"gzip (h5py {h5py.__version__}, HDF5 {h5py.version.hdf5_version})")
        if gzip
        else Check("packets", "bad", "this h5py has no gzip filter", "install h5py from PyPI")
    )
    return checks


def _decodes(av: object, name: str) -> bool:
    try:
        av.Codec(name, "r")  # type: ignore[attr-defined]
    except ValueError:  # how PyAV says that it has no such decoder
        return False
    return True


def _packages() -> list[Check]:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("cuepack", "prefect", "torch", "numpy"))
    engines = [name for name in ("ray", "dask") if importlib.util.find_spec(f"prefect_{name}")]
    todo = "" if len(engines) == 2 else "run.engine=ray or dask needs `pip install 'cuepack[ray]'` or `[dask]`"
    return [Check("packages", "good", f"{versions}; engines local, workers{''.join(f', {e}' for e in engines)}", todo)]


def _remote() -> list[Check]:
    clients = {"s3fs": ("s3://", "s3"), "gcsfs": ("gs://", "gcs")}
    installed = [name for name in clients if importlib.util.find_spec(name)]
    lacking = [f"{use} needs cuepack[{extra}]" for name, (use, extra) in clients.items() if name not in installed]
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("fsspec", *installed))
    return [Check("remote", "good", "; ".join([versions, *lacking, f"copies in {cache_folder()}"]))]


def _prefect() -> list[Check]:
    url = os.environ.get("PREFECT_API_URL")
    if url:
        try:
            server = find_server(url)
        except ConfigError as error:
            return [Check("prefect", "bad", str(error).partition("; ")[0], str(error).partition("; ")[2])]
        client = metadata.version("prefect")
        says = f"server at {url}, version {server.version or 'told only after a login'}; client {client}"
        if server.version and server.version.split(".")[0] != client.split(".")[0]:
            return [Check("prefect", "bad", says, f"use a server of version {client.split('.')[0]}")]
        return [Check("prefect", "good", says)]
    home = Path(os.environ.get("PREFECT_HOME") or user_cache_path("cuepack"))
    if not _can_write(home):
        return [
            Check(
                "prefect", "note", f"{home} cannot be written", "set PREFECT_HOME to a folder that can; or --no-prefect"
            )
        ]
    return [
        Check("prefect", "good", "no PREFECT_API_URL: runs use the embedded server", "`cuepack serve` for a dashboard")
    ]


def _disk(out: Path) -> list[Check]:
    checks = []
    for name, folder in (("output disk", out), ("temporary", Path(tempfile.gettempdir()))):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(there).free / 1e9
        if not _can_write(there):
            checks.append(
                Check(name, "bad", f"{there} cannot be written", "choose another folder, or fix its permissions")
            )
        elif free < LOW_DISK_GB:
            says = f"{free:.1f} GB free at {there}"
            checks.append(Check(name, "note", says, "1,000 episodes of 40 frames take about 2.2 GB"))
        else:
            checks.append(Check(name, "good", f"{free:.0f} GB free at {there}"))
    return checks


def _can_write(folder: Path) -> bool:
    there = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(there, os.W_OK)
