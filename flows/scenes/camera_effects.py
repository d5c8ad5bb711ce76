"""What cameras and files do to a clip: exposure, blur, noise, JPEG and H.264."""

from __future__ import annotations

import io
from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from flows.scenes.textures import Rng

Pixels = NDArray[np.uint8]


def spoil(rng: Rng, pixels: Pixels) -> Pixels:
    """The clip (T, H, W, 3) as a random camera and file format would hand it on; even sides, for H.264."""
    values = pixels.astype(np.float32)
    gain = np.exp(rng.normal(0, 0.25)) * (1 + np.cumsum(rng.normal(0, 0.004, len(pixels))))
    tint = np.clip(rng.normal(1, 0.06, 3), 0.8, 1.2)
    values *= np.asarray(gain[:, None, None, None] * tint, np.float32)
    gamma = np.exp(rng.normal(0, 0.2))
    values = np.asarray(255 * np.clip(values / 255, 0, 1) ** gamma, np.float32)
    if rng.random() < 0.5:
        blur = rng.uniform(0.3, 0.9)
        values = np.stack([np.asarray(cv2.GaussianBlur(each, (0, 0), blur), np.float32) for each in values])
    if rng.random() < 0.7:
        values += rng.normal(0, rng.uniform(0.5, 6), values.shape).astype(np.float32)
    out = np.clip(values, 0, 255).astype(np.uint8)
    chance = rng.random()
    if chance < 0.35:
        quality = int(rng.integers(40, 96))
        return np.stack([_jpeg(each, quality) for each in out])
    return h264(out, int(rng.integers(16, 33))) if chance < 0.75 else out


def _jpeg(frame: Pixels, quality: int) -> Pixels:
    packed = cv2.imencode(".jpg", frame[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)[..., ::-1]


def h264(pixels: Pixels, crf: int) -> Pixels:
    """The clip (T, H, W, 3) after H.264 at constant quality `crf` (0 .. 51, lower is better); even sides."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        # The same bytes on every machine and each time: one thread, and none of the short cuts of a kind of processor
        # (with those of AVX-512, one clip had two encodings within one process).
        options = {"crf": str(crf), "threads": "1", "x264-params": "cpu-independent=1"}
        stream = container.add_stream("libx264", rate=Fraction(10), options=options)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as video:
        frames = [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in video.decode(video=0)]
    return np.stack(frames)
