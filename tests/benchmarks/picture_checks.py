"""Why pictures are walked by hand: damage found, and CPU time, beside Pillow's strict decoding.

    python -m tests.benchmarks.picture_checks

A picture is cut at random places, or has one bit flipped; what is found is what raises. Decoding is by OpenCV after our
look at the file (flows/sources/images.py), and by Pillow alone, which stops at what it calls truncated or broken.
"""

from __future__ import annotations

import io
import platform
import time
from collections.abc import Callable

import cv2
import numpy as np
from PIL import Image

from extractors.errors import CorruptDataError
from flows.sources.images import decode_rgb

SIZE = (480, 640)
COPIES = 200


def pillow(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8, by Pillow."""
    with Image.open(io.BytesIO(data), formats=["JPEG", "PNG"]) as image:
        return np.asarray(image.convert("RGB"))


def ours(data: bytes) -> np.ndarray:
    """(H, W, 3) uint8, by the sources' own reader."""
    return decode_rgb(data, "it")


def found(decode: Callable[[bytes], object], damaged: list[bytes]) -> float:
    """Share of the damaged pictures that are refused."""
    refused = 0
    for data in damaged:
        try:
            decode(data)
        except (CorruptDataError, OSError, SyntaxError, ValueError):
            refused += 1
    return refused / len(damaged)


def seconds(decode: Callable[[bytes], object], data: bytes) -> float:
    """CPU seconds of one decoding, the median of many."""
    times = []
    for _ in range(COPIES):
        start = time.process_time()
        decode(data)
        times.append(time.process_time() - start)
    return float(np.median(times))


def main() -> None:
    """Prints a row for each kind of picture."""
    rng = np.random.default_rng(0)
    frame = cv2.GaussianBlur(rng.integers(0, 255, (*SIZE, 3)).astype(np.uint8), (0, 0), 4)
    print(f"{platform.machine()}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}")
    for kind in (".jpg", ".png"):
        data = cv2.imencode(kind, frame)[1].tobytes()
        cuts = [data[: int(rng.integers(200, len(data) - 2))] for _ in range(COPIES)]
        flips = []
        for _ in range(COPIES):
            flipped = bytearray(data)
            flipped[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            flips.append(bytes(flipped))
        ratio = seconds(pillow, data) / seconds(ours, data)
        for name, decode in (("ours", ours), ("Pillow", pillow)):
            print(f"{kind} {name:7} cut {found(decode, cuts):6.1%} found, one bit {found(decode, flips):6.1%} found")
        print(f"{kind} Pillow takes {ratio:.2f} times the CPU time")


if __name__ == "__main__":
    main()
