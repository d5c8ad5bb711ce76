"""nano's depth taught by packets, with a teacher whose depth is easy to learn: dark is near."""

from functools import partial

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from extractors.backends.nano.network import NanoNetwork
from extractors.errors import ConfigError
from flows.cli import main
from flows.learning import distil as distilling
from flows.learning import train_nano
from flows.learning.clips import DRAWN_PX, Clip, read_clip, write_clip
from flows.learning.losses import UNTOLD
from packers.writer import encode, write_packet
from tests.packers.examples import KEYS, attributes, datasets

COUNT = 10


def write_taught(folder, number, *, backend=distilling.TEACHER, frames=6):
    rng = np.random.default_rng(number)
    near = rng.random((1, 3, 4)).repeat(8, 1).repeat(8, 2).repeat(frames, 0).astype(np.float32)
    pixels = (255 * (1 - near))[..., None].repeat(3, -1).astype(np.uint8)
    found = datasets(frames)
    found["pixels"] = encode("pixels", pixels, stage_key=KEYS["source"])
    found["depth/relative"] = encode("depth/relative", 40 * near - 7, stage_key=KEYS["depth"])
    told = attributes(f"episode_{number}", frames)
    told["stages"]["depth"]["backend"] = backend
    path = folder / f"episode_{number}.h5"
    write_packet(path, found, told)
    return path


def scenes(folder, count, seed, *, first=0):
    """Stands in for the generator of scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(first, count):
        rng = np.random.default_rng((seed, index))
        classes = rng.integers(0, 4, (16, 64, 64)).astype(np.uint8)
        write_clip(
            folder / f"clip{index:06d}.npz",
            Clip(rng.integers(0, 255, (*classes.shape, 3), np.uint8), classes, np.ones(classes.shape, np.float32)),
        )
        yield folder / f"clip{index:06d}.npz"


@pytest.fixture
def quick(monkeypatch):
    steps = iter(range(10_000))
    # Sixty steps are a minute, whatever the machine.
    monkeypatch.setattr(train_nano, "monotonic", lambda: float(next(steps)))
    monkeypatch.setattr(train_nano, "TOLD_EVERY", 10)
    monkeypatch.setattr(distilling, "Schedule", partial(train_nano.Schedule, side=48))
    # Dark would not be near in an inverted picture.
    monkeypatch.setattr(train_nano, "other_look", lambda _rng, pixels, _shown, _count: pixels)
    monkeypatch.setattr(distilling, "RATE", 1e-2)
    monkeypatch.setattr(distilling, "generate", scenes)
    monkeypatch.setattr(distilling, "SCENES", 2)
    monkeypatch.setattr(distilling, "STOP_SCENES", 1)
    torch.manual_seed(0)
    monkeypatch.setattr(distilling, "load_network", NanoNetwork)


def test_the_network_learns_what_the_teacher_saw(quick, tmp_path, capsys):
    packets = [write_taught(tmp_path, number) for number in range(COUNT)]
    out = tmp_path / "taught.safetensors"
    # 120 steps: after 60 the order in which sums are taken still decides.
    assert distilling.distil(packets, tmp_path / "work", out, minutes=2) == COUNT
    lines = capsys.readouterr().out.splitlines()
    first, last = (float(line.split(" depth ")[1].split()[0]) for line in (lines[0], lines[-1]))
    assert last < 0.8 * first
    assert out.exists()


def test_a_packet_asks_for_its_depth_alone_and_some_are_held_out(quick, tmp_path):
    packets = [write_taught(tmp_path, number) for number in range(COUNT)]
    (tmp_path / "work" / "taught").mkdir(parents=True)
    (tmp_path / "work" / "taught" / "clip999999.npz").write_bytes(b"of packets that taught before")
    distilling.distil(packets, tmp_path / "work", tmp_path / "taught.safetensors", minutes=0.01)
    trained = sorted((tmp_path / "work" / "taught").glob("*.npz"))
    held_out = sorted((tmp_path / "work" / "taught_stop").glob("*.npz"))
    assert (len(trained), len(held_out)) == (8, 2)
    clip = read_clip(trained[0])
    assert clip.pixels.shape == (16, DRAWN_PX, DRAWN_PX, 3)
    assert (clip.classes == UNTOLD).all()
    assert (clip.inverse_depth.min(), clip.inverse_depth.max()) == (0.5, 1.5)
    # Dark is near, frame by frame: depth and picture belong together.
    brightness = clip.pixels[..., 0].astype(float)
    assert np.corrcoef(brightness.ravel(), clip.inverse_depth.ravel())[0, 1] < -0.95


def test_packets_of_another_teacher_do_not_teach(quick, tmp_path, caplog):
    packets = [write_taught(tmp_path, number, backend="nano") for number in range(2)]
    packets += [write_taught(tmp_path, number) for number in range(2, 5)]
    packets[-1].write_bytes(packets[-1].read_bytes()[:3000])
    with pytest.raises(ConfigError, match="2 of 5 packets hold relative depth by video-depth-anything, wanted 8"):
        distilling.distil(packets, tmp_path / "work", tmp_path / "taught.safetensors", minutes=0.1)
    assert "episode_4.h5 teaches nothing" in caplog.text


def test_the_command_says_what_is_missing(tmp_path):
    (tmp_path / "packets" / "00").mkdir(parents=True)
    write_taught(tmp_path / "packets" / "00", 0, backend="nano")
    ran = CliRunner().invoke(main, ["models", "distil", str(tmp_path), "--out", str(tmp_path / "w.safetensors")])
    assert ran.exit_code == 2
    assert "extract them with depth.backend=video-depth-anything" in ran.output
