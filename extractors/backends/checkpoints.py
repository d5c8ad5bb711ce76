"""What is wrong with a checkpoint, in words; the backends say what to do about it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extractors.errors import WeightsError

_CODE = re.compile(r"(?:Unsupported global: GLOBAL|Unsupported class|Unsupported operand) ([\w.:]+)")
"""How torch 2.6 to 2.13 name what a pickle asks for."""

_MAGICS = (
    (b"\x1f\x8b", "a gzip file; unpack it"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (b"\x89HDF", "an HDF5 file"),
    (b"%PDF", "a PDF document"),
)

MOST_NAMED = 3
"""A checkpoint of another model differs in hundreds of names; this many are enough to recognise it."""


def read_state(path: Path, advice: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, on the CPU; nothing that the file names is run.

    Args:
        path: the file; a dict of tensors, or one under the key `model`, as CoTracker's trainer saves it.
        advice: what to do, put at the end of messages.

    Raises:
        WeightsError: it cannot be read whole, or is no plain dict of tensors.
    """
    kind = recognised(path)
    if kind is not None:
        raise WeightsError(f"{path} is no checkpoint but {kind}; {advice}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's about pickles of other protocols, which are refused anyway
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for files that are cut off, or no checkpoints
        code = _CODE.search(str(error))
        # Letters of any text are operations of a pickle to torch; a pickle begins with its protocol.
        if code is not None and (not code[1].isdigit() or _begins_as_pickle(path)):
            # Torch's own text goes on to advise loading it all the same.
            raise WeightsError(
                f"{path} is a pickle that asks for more than tensors ({code[1]}) and may run a program; nothing of it "
                f"was run; {advice}"
            ) from None
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise WeightsError(f"{path} cannot be read as a checkpoint ({reason}); it may be cut off: {advice}") from error
    if isinstance(state, dict) and isinstance(state.get("model"), dict):
        state = state["model"]
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{path} is no plain dict of tensors; {advice}")
    return state


def _begins_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def recognised(path: Path) -> str | None:
    """What a file is that was saved under a checkpoint's name and is none, in words; None where it may be one."""
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file"
    if head.startswith(b"version https://git-lfs"):
        return "a Git-LFS pointer: `git lfs pull` in its repository gets the file that it stands for"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml", b"<error")):
        return "a web page, as servers send instead of a file: a login, a licence to accept, an error"
    if text.startswith((b"{", b"[")):
        return "JSON text, perhaps a server's error message"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "a safetensors file"
    if not head.strip(b"\0"):
        return "zeros, as a download that was cut off leaves"
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    return None


def load_state(network: nn.Module, state: dict[str, Tensor], path: Path, file: str, advice: str) -> None:
    """Gives `network`, which may be on the meta device, the tensors of the published `file` as read from `path`.

    Raises:
        WeightsError: names or shapes differ, or a number is not finite.
    """
    faults = checkpoint_faults(state, network.state_dict())
    if faults:
        raise WeightsError(f"{path} is not {file}: {faults}; {advice}")
    network.load_state_dict(state, strict=True, assign=True)
    network.requires_grad_(False).eval()


def checkpoint_faults(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """How names, shapes and numbers of `state` differ from the network's own, "" where they do not."""
    faults = [
        *(f"{name} is missing" for name in wanted if name not in state),
        *(f"{name} is not expected" for name in state if name not in wanted),
        *(
            f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
            for name, value in wanted.items()
            if name in state and state[name].shape != value.shape
        ),
    ]
    faults += [] if faults else [f"{name} is not finite" for name in state if not state[name].isfinite().all()]
    more = f" and {len(faults) - MOST_NAMED} more" if len(faults) > MOST_NAMED else ""
    return "; ".join(faults[:MOST_NAMED]) + more
