import json

import av
import numpy as np
import pytest

from extractors.errors import ConfigError
from packers.export.control import write_control
from packers.export.formats import check_request
from tests.packers.examples import write_example


def frames(path):
    with av.open(str(path)) as video:
        return [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]


def test_each_episode_has_its_videos_and_prompt(tmp_path):
    packets = [write_example(tmp_path, "a"), write_example(tmp_path, "b", 3, height=25, width=33)]
    written = write_control(packets, tmp_path / "out")
    assert (written.episodes, written.videos) == (2, 8)
    lines = [json.loads(line) for line in (tmp_path / "out" / "videos.jsonl").read_text().splitlines()]
    assert [line["episode_id"] for line in lines] == ["a", "b"]
    assert lines[0]["prompt"] == "put the größe cup on the plate"
    assert (tmp_path / "out" / "a" / "prompt.txt").read_text() == "put the größe cup on the plate\n"
    for line, n_frames, sides in zip(lines, (6, 3), ((24, 32), (26, 34)), strict=True):
        assert set(line["videos"]) == {"video", "depth", "mask", "edge"}
        for name in line["videos"].values():
            decoded = frames(tmp_path / "out" / name)
            assert len(decoded) == n_frames
            assert decoded[0].shape == (*sides, 3)
    mask = frames(tmp_path / "out" / "a" / "mask.mp4")[0]
    assert mask[10, 7].min() > 200  # the square
    assert mask[20, 25].max() < 50
    depth = frames(tmp_path / "out" / "a" / "depth.mp4")[0].astype(int)
    assert depth[2, 16].mean() > depth[20, 16].mean() + 50  # near is bright


def test_a_packet_without_depth_lacks_that_video(tmp_path):
    from packers.writer import write_packet
    from tests.packers import examples

    found = {name: value for name, value in examples.datasets().items() if not name.startswith("depth/")}
    write_packet(tmp_path / "a.h5", found, examples.attributes("a"))
    write_control([tmp_path / "a.h5"], tmp_path / "out")
    assert not (tmp_path / "out" / "a" / "depth.mp4").exists()
    assert (tmp_path / "out" / "a" / "edge.mp4").exists()


def test_a_target_that_exists_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="exists already"):
        check_request("control", set(), tmp_path)


def test_depth_without_any_reading_is_black(tmp_path):
    from packers.writer import write_packet
    from tests.packers import examples

    found = examples.replaced(examples.datasets(), "depth/metric", np.zeros((6, 24, 32), np.float32))
    write_packet(tmp_path / "a.h5", found, examples.attributes("a"))
    write_control([tmp_path / "a.h5"], tmp_path / "out")
    assert max(frame.max() for frame in frames(tmp_path / "out" / "a" / "depth.mp4")) < 20
