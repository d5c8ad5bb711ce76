"""Splits by episode and scene, and copies that are found by what they show."""

from itertools import combinations

import cv2
import numpy as np
import pytest

from extractors.errors import ConfigError
from packers.export import splitting
from packers.export.splitting import ALIKE_BITS, picture_hash, split_packets
from packers.writer import encode, write_packet
from tests.packers import examples
from tests.packers.training import packets

SIZE = (64, 80)


def picture(seed):
    """A scene of its own whose contrast falls with its detail, as that of cameras does: (H, W, 3) uint8."""
    rng = np.random.default_rng(seed)
    found = np.full((*SIZE, 3), 128, np.float32)
    for side in (2, 4, 8, 16, 32):
        rough = rng.uniform(-180, 180, (side, side, 1)).astype(np.float32) / np.sqrt(side)
        found += cv2.resize(rough, SIZE[::-1], interpolation=cv2.INTER_CUBIC)[..., None]
    return found.clip(0, 255).astype(np.uint8)


def actions(seed, frames=12):
    return np.cumsum(np.random.default_rng(seed).normal(size=(frames, 7)), axis=0).astype(np.float32)


def write(folder, name, scene, motion, **more):
    values = {"pixels": np.repeat(picture(scene)[None], 12, axis=0), "action": actions(motion)}
    return packets.write(folder, name, size=SIZE, values=values | more)


CHANGES = {
    "JPEG": lambda frame: cv2.imdecode(cv2.imencode(".jpg", frame, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 1),
    "half the size": lambda frame: cv2.resize(frame, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "darker": lambda frame: (frame * 0.7).astype(np.uint8),
    "noise": lambda frame: (frame + np.random.default_rng(0).normal(0, 8, frame.shape)).clip(0, 255).astype(np.uint8),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_keeps_its_hash_through_what_recoding_does(change):
    for seed in range(20):
        changed = CHANGES[change](picture(seed))
        assert (picture_hash(changed) != picture_hash(picture(seed))).sum() <= ALIKE_BITS
        assert (picture_hash(changed) != picture_hash(picture(seed + 100))).sum() > ALIKE_BITS


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (31, 33), (480, 640)])
def test_frames_of_any_size_have_a_hash(shape):
    frame = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert picture_hash(frame).shape == (120,)


def test_a_copy_with_other_bytes_and_another_name_stays_with_what_it_repeats(tmp_path):
    paths = [write(tmp_path, f"episode_{number}", number, number) for number in range(8)]
    recoded = np.repeat(CHANGES["JPEG"](picture(3))[None], 12, axis=0)
    paths.append(write(tmp_path, "uploaded_again", 3, 3, pixels=recoded, action=actions(3) * np.float32(1.01)))
    paths.append(write(tmp_path, "same_scene_other_motion", 3, 77))
    for seed in range(6):
        sides, copies = split_packets(paths, 0.4, seed=seed)
        assert copies == 1
        assert sides[paths[3]] == sides[paths[8]]
        assert set(sides.values()) == {"train", "val"}
        by_scene, copies = split_packets(paths, 0.4, seed=seed, by="scene")
        assert copies == 1
        assert by_scene[paths[3]] == by_scene[paths[8]] == by_scene[paths[9]]
    together = [split_packets(paths, 0.4, seed=seed)[0] for seed in range(20)]
    assert any(sides[paths[3]] != sides[paths[9]] for sides in together)


def test_cameras_of_one_episode_are_on_one_side(tmp_path):
    paths = [
        packets.write(tmp_path, f"e{number}-c{camera}", episode=number) for number in range(6) for camera in (0, 1)
    ]
    for seed in range(5):
        sides, copies = split_packets(paths, 0.5, seed=seed)
        assert copies == 0
        assert all(sides[a] == sides[b] for a, b in zip(paths[::2], paths[1::2], strict=True))


def test_a_split_that_cannot_be_is_refused(tmp_path):
    one = write(tmp_path, "a", 1, 1)
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="above 0 and below 1"):
            split_packets([one], share)
    with pytest.raises(ConfigError, match="none can be set apart"):
        split_packets([one, write(tmp_path, "b", 1, 1)], 0.5)


def test_episodes_of_one_bridgedata_folder_are_one_scene(tmp_path):
    paths = []
    for number in range(8):
        attributes = examples.attributes(f"e{number}")
        place = f"kitchen{number % 4}/put_cup/00/2026-01-0{number % 4 + 1}/raw/traj_group0/traj{number}"
        attributes["source"] |= {"kind": "bridge-raw", "path": place, "key": {"path": place}}
        found = examples.datasets()
        frame = cv2.resize(picture(number), (examples.WIDTH, examples.HEIGHT), interpolation=cv2.INTER_AREA)
        key = examples.KEYS["source"]
        found |= {"pixels": encode("pixels", np.repeat(frame[None], 6, axis=0), stage_key=key)}
        paths.append(tmp_path / f"e{number}.h5")
        write_packet(paths[-1], found, attributes)
    for seed in range(5):
        sides, _ = split_packets(paths, 0.5, seed=seed, by="scene")
        assert all(sides[a] == sides[b] for a, b in zip(paths[:4], paths[4:], strict=True))


@pytest.mark.parametrize("most_pairs", [1, 7, 2**20])
def test_first_frames_that_are_alike_are_paired_once_each(most_pairs, monkeypatch):
    monkeypatch.setattr(splitting, "MOST_PAIRS", most_pairs)
    rng = np.random.default_rng(0)
    scenes = rng.random((6, 120)) > 0.5
    firsts = scenes[rng.integers(0, 6, 90)]
    for first in firsts:
        first[rng.choice(120, rng.integers(0, 12), replace=False)] ^= True
    looks = [splitting._Looks(str(number), "", first, first, None, 10) for number, first in enumerate(firsts)]
    expected = {(a, b) for a, b in combinations(range(90), 2) if (firsts[a] != firsts[b]).sum() <= ALIKE_BITS}
    found = list(splitting._alike(looks))
    assert set(found) == expected
    assert len(found) == len(expected)
    assert len(expected) > 100
