"""Which weights there are; without torch, which stages do not load to be listed."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from extractors.errors import WeightsError

PACKAGED = Path(__file__).with_name("nano.safetensors")


@lru_cache(maxsize=4)
def weights_digest(path: Path = PACKAGED) -> str:
    """Sha256 of weights, as they were when this process first asked: results made with other ones are made again.

    Raises:
        WeightsError: they cannot be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise WeightsError(f"nano's weights {path} cannot be read ({error}); correct depth.weights") from error
