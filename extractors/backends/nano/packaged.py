"""Where the weights are in the package, and which they are; without torch, which stages do not load to be listed."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

PACKAGED = Path(__file__).with_name("nano.safetensors")


@lru_cache(maxsize=1)
def packaged_digest() -> str:
    """Sha256 of the packaged weights: results made with other ones are made again."""
    return hashlib.sha256(PACKAGED.read_bytes()).hexdigest()
