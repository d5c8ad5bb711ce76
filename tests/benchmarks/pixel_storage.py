"""What packets' pixels would take as pictures of other kinds: size, loss, and the time to read a window of 4 frames.

    python -m tests.benchmarks.pixel_storage PACKETS [--frames 400]

Each frame by itself, as windows are read at random: JPEG (OpenCV's libjpeg-turbo, 4:4:4 and 4:2:0), PNG, WebP, AV1 key
frames (PyAV). Decoded from memory, single thread; medians over windows. PSNR over all pixels of all frames.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from packers.reader import Packet

Frame = NDArray[np.uint8]
WINDOW = 4

os.environ.setdefault("SVT_LOG", "1")  # errors alone: it prints its settings for every frame


def kinds() -> Iterator[tuple[str, Callable[[Frame], bytes], Callable[[bytes], Frame]]]:
    """Name, how a frame is encoded and decoded."""
    yield "plain", lambda frame: frame.tobytes(), lambda data: np.frombuffer(data, np.uint8).copy()
    for quality in (80, 90, 95):
        for name, sampling in (("4:4:4", 0x111111), ("4:2:0", 0x221111)):
            options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
            yield f"JPEG {quality}, {name}", opencv(".jpg", options), decoded
    yield "PNG 1", opencv(".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]), decoded
    yield "PNG 6", opencv(".png", [cv2.IMWRITE_PNG_COMPRESSION, 6]), decoded
    yield "WebP 90", opencv(".webp", [cv2.IMWRITE_WEBP_QUALITY, 90]), decoded
    for crf in (20, 30):
        yield f"AV1 key frame, crf {crf}", av1(crf), av1_decoded


def opencv(ending: str, options: list[int]) -> Callable[[Frame], bytes]:
    """An encoder of OpenCV's."""
    return lambda frame: cv2.imencode(ending, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def decoded(data: bytes) -> Frame:
    """The frame of a picture."""
    return np.asarray(cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), 1), cv2.COLOR_BGR2RGB), np.uint8)


def av1(crf: int) -> Callable[[Frame], bytes]:
    """An encoder of single AV1 frames."""

    def encode(frame: Frame) -> bytes:
        codec = av.CodecContext.create("libsvtav1", "w")
        codec.width, codec.height, codec.pix_fmt = frame.shape[1], frame.shape[0], "yuv420p"
        codec.time_base, codec.options = Fraction(1, 5), {"crf": str(crf), "preset": "8", "svtav1-params": "keyint=1"}
        packets = [*codec.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")), *codec.encode(None)]
        return b"".join(bytes(packet) for packet in packets)

    return encode


def av1_decoded(data: bytes) -> Frame:
    """The frame of an AV1 stream."""
    codec = av.CodecContext.create("libdav1d", "r")
    frames = [*codec.decode(av.Packet(data)), *codec.decode(None)]
    return np.asarray(frames[0].to_ndarray(format="rgb24"), np.uint8)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packets", type=Path)
    parser.add_argument("--frames", type=int, default=400)
    options = parser.parse_args()
    frames: list[Frame] = []
    for path in sorted(options.packets.rglob("*.h5")):
        with Packet(path) as packet:
            frames += list(packet.read("pixels"))
    frames = frames[:: max(1, len(frames) // options.frames)]
    if not frames:
        parser.error(f"no packets in {options.packets}")
    cv2.setNumThreads(1)
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{time.strftime('%F')}, {platform.machine()}, {os.cpu_count()} cores, {load}; {len(frames)} frames")
    print(f"{'pixels as':24} {'kB/frame':>9} {'PSNR dB':>8} {'encode ms':>10} {'window ms cpu':>14}")
    for name, encode, decode in kinds():
        started = time.process_time()
        stored = [encode(frame) for frame in frames]
        encoding = (time.process_time() - started) / len(frames)
        windows = []
        for at in range(0, len(stored) - WINDOW, WINDOW):
            started = time.process_time()
            for data in stored[at : at + WINDOW]:
                decode(data)
            windows.append(time.process_time() - started)
        pairs = zip(frames, stored, strict=True)
        loss = np.mean([((decode(d).reshape(f.shape).astype(np.float64) - f) ** 2).mean() for f, d in pairs])
        psnr = "exact" if loss == 0 else f"{10 * np.log10(255**2 / loss):.1f}"
        size = sum(map(len, stored)) / len(stored) / 1e3
        print(
            f"{name:24} {size:9.1f} {psnr:>8} {encoding * 1e3:10.2f} {statistics.median(windows) * 1e3:14.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
