from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from extractors.errors import CorruptDataError, MissingDataError
from flows.sources.video import VideoFrames, is_cut, list_pictures, scan_video
from tests.flows.sources.lerobot_builder import cut, number_of, numbered, write_video
from tests.support import shared_data

FPS = 10
CODECS = {"h264": "libx264", "av1": "libsvtav1", "hevc": "libx265", "mpeg4": "mpeg4"}


def write_numbers(path: Path, count: int, **options) -> Path:
    write_video(path, [numbered(i) for i in range(count)], fps=FPS, **options)
    return path


def numbers(frames) -> list[int]:
    return [number_of(frame) for frame in frames]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = np.mean((a.astype(np.float64) - b) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def ffmpeg_frames(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """All frames of a file by Debian's ffmpeg: another build and version of the decoders than PyAV's."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: no independent decoder to compare with (apt-get install ffmpeg)")
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-vsync", "0", "-"]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, *shape[1:])


@pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
def test_every_frame_of_a_file_comes_in_presentation_order(tmp_path, codec):
    path = write_numbers(tmp_path / "a.mp4", 20, codec=codec)
    scan = scan_video(path)
    frames = VideoFrames(path, np.arange(len(scan.times)))
    assert frames.shape == (20, 48, 64, 3)
    assert numbers(frames) == list(range(20))
    assert scan.fps == FPS
    np.testing.assert_allclose(scan.times, np.arange(20) / FPS, atol=1e-6)
    pictures = list_pictures(path)
    assert (pictures.count, pictures.sure) == (20, True)
    np.testing.assert_allclose(pictures.times, scan.times)


@pytest.mark.parametrize("start", [0, 5, 11, 37])
def test_a_part_of_a_long_file_starts_at_its_own_frame(tmp_path, start):
    path = write_numbers(tmp_path / "a.mp4", 60, gop=12)
    frames = VideoFrames(path, start + np.arange(10), list_pictures(path))
    assert numbers(frames) == numbers(VideoFrames(path, start + np.arange(10))) == list(range(start, start + 10))


def test_pictures_may_repeat_and_be_passed_over(tmp_path):
    path = write_numbers(tmp_path / "a.mp4", 30)
    wanted = [3, 3, 4, 9, 9, 20]
    assert numbers(VideoFrames(path, np.array(wanted), list_pictures(path))) == wanted
    assert numbers(VideoFrames(path, np.array(wanted))) == wanted


def test_each_pass_decodes_anew_and_an_abandoned_one_closes_the_file(tmp_path):
    path = write_numbers(tmp_path / "a.mp4", 20)
    frames = VideoFrames(path, np.arange(20))
    handles = Path("/proc/self/fd")
    opened = len(list(handles.iterdir())) if handles.exists() else 0
    for _ in range(3):
        assert number_of(next(iter(frames))) == 0
    assert numbers(frames) == list(range(20))
    if opened:
        assert len(list(handles.iterdir())) == opened


def test_a_picture_that_is_not_there_names_row_and_number(tmp_path):
    path = write_numbers(tmp_path / "a.mp4", 20)
    with pytest.raises(MissingDataError, match=r"no picture 24 for row 2.*2 of 3 frames"):
        list(VideoFrames(path, np.array([18, 19, 24]), list_pictures(path)))
    with pytest.raises(MissingDataError, match="no picture 70 for row 0"):
        list(VideoFrames(path, np.array([70])))


@pytest.mark.parametrize("codec", ["libx264", "libsvtav1"])
def test_a_cut_file_with_its_index_at_the_front_says_how_many_frames_decoded(tmp_path, codec):
    noise = np.random.default_rng(0).integers(0, 255, (48, 48, 64, 3), np.uint8)
    path = tmp_path / "a.mp4"
    write_video(path, noise, fps=FPS, codec=codec, front=True)
    assert not is_cut(path)
    cut(path, 0.6)
    assert is_cut(path)
    with pytest.raises(CorruptDataError, match=r"[23]\d of 48 frames decoded"):
        scan_video(path)
    seen: list[int] = []
    with pytest.raises(CorruptDataError, match=r"row \d+; .* of 48 frames decoded"):
        seen.extend(frame.max() for frame in VideoFrames(path, np.arange(48), list_pictures(path)))
    assert 20 <= len(seen) < 40
    with pytest.raises(CorruptDataError, match="0 of 3 frames decoded"):
        list(VideoFrames(path, np.array([45, 46, 47]), list_pictures(path)))


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.mov"])
def test_a_cut_file_of_another_container_is_corrupt(tmp_path, name):
    path = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    write_video(path, noise, fps=FPS, codec="mpeg4")
    assert len(scan_video(path).times) == 30
    cut(path, 0.6)
    with pytest.raises(CorruptDataError, match="replace the file"):
        scan_video(path)


def test_no_video_and_no_file_are_different_errors(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"this is no video" * 100)
    (tmp_path / "b.mp4").write_bytes(b"")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(CorruptDataError, match=f"{name} cannot be opened"):
            scan_video(tmp_path / name)
    with pytest.raises(MissingDataError, match=r"c\.mp4 is not there"):
        VideoFrames(tmp_path / "c.mp4", np.array([0])).shape  # noqa: B018


def test_a_damaged_stretch_in_the_middle_is_not_passed_over(tmp_path):
    path = tmp_path / "a.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (30, 48, 64, 3), np.uint8)
    write_video(path, noise, fps=FPS, codec="libsvtav1", front=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    path.write_bytes(data)
    with pytest.raises(CorruptDataError, match="of 30 frames decoded: it has a hole"):
        list(VideoFrames(path, np.arange(30), list_pictures(path)))


FORMATS = {
    "bt709": ["-vf", "scale=out_color_matrix=bt709", "-colorspace", "bt709"],
    "full range": ["-vf", "scale=out_range=pc", "-color_range", "pc"],
    "4:4:4": ["-pix_fmt", "yuv444p"],
    "10 bit": ["-pix_fmt", "yuv420p10le"],
    "odd height": ["-c:v", "ffv1", "-vf", "scale=63:47"],
    "mjpeg": ["-c:v", "mjpeg", "-q:v", "3"],
}


@pytest.mark.parametrize("arguments", FORMATS.values(), ids=FORMATS)
def test_colours_equal_those_of_ffmpeg(tmp_path, arguments):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: no independent decoder to compare with (apt-get install ffmpeg)")
    rng = np.random.default_rng(0)
    smooth = [np.repeat(np.repeat(rng.integers(0, 255, (6, 8, 3), np.uint8), 8, 0), 8, 1) for _ in range(5)]
    write_video(tmp_path / "a.mp4", smooth, fps=FPS)
    path = tmp_path / "b.mkv"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.mp4"), *arguments, str(path)], check=True)
    frames = VideoFrames(path, np.arange(len(scan_video(path).times)))
    mine = np.stack(list(frames))
    reference = ffmpeg_frames(path, frames.shape)
    assert min(psnr(a, b) for a, b in zip(mine, reference, strict=True)) >= 60


def test_a_rotation_in_the_metadata_is_applied_as_ffmpeg_does(tmp_path):
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed: it writes the rotated file (apt-get install ffmpeg)")
    write_numbers(tmp_path / "a.mp4", 5)
    path = tmp_path / "b.mp4"
    command = ["ffmpeg", "-v", "error", "-i", str(tmp_path / "a.mp4"), "-c", "copy", "-metadata:s:v", "rotate=90"]
    subprocess.run([*command, str(path)], check=True)
    frames = VideoFrames(path, np.arange(len(scan_video(path).times)), size=scan_video(path).size)
    assert frames.shape == (5, 64, 48, 3)
    np.testing.assert_array_equal(np.stack(list(frames)), ffmpeg_frames(path, frames.shape))


REAL = [
    "lerobot_v30/video_av1/videos/observation.images.image_0/chunk-000/file-000.mp4",
    "lerobot_v30/video_h264/videos/observation.images.image_1/chunk-000/file-001.mp4",
    "lerobot_v20/video_av1/videos/chunk-000/observation.images.image_0/episode_000002.mp4",
    "real_extra/lerobot_v20_gr1_sim/videos/chunk-000/observation.images.ego_view/episode_000004.mp4",
    "real_extra/bridge_teaser_videos/bridge_data_v1_berkeley_toykitchen1_put_banana_on_plate.mp4",
    "real_extra/misc_video/edgetam_robotarm.mp4",
]


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_real_frames_equal_those_of_ffmpeg(name):
    path = shared_data(name)
    frames = VideoFrames(path, np.arange(len(scan_video(path).times)))
    reference = ffmpeg_frames(path, frames.shape)
    assert len(reference) == len(frames)
    assert min(psnr(a, b) for a, b in zip(frames, reference, strict=True)) >= 45
