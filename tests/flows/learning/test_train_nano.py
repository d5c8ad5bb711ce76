from dataclasses import replace

import numpy as np
import pytest
import torch

from extractors.backends.nano.inputs import CHANNELS
from extractors.backends.nano.network import Answer, NanoNetwork
from extractors.backends.nano.weights import load_network, save_weights
from flows.learning import train_nano
from flows.learning.clips import read_clip, write_clip
from flows.learning.losses import UNTOLD, class_loss, depth_loss


@pytest.fixture
def clips(tmp_path):
    """Two clips of a square that a darker bar pushes, as `generate` writes them."""
    for name in ("train", "stop"):
        folder = tmp_path / name
        folder.mkdir()
        classes = np.zeros((16, 64, 64), np.uint8)
        for frame in range(16):
            classes[frame, :40, 10 + 2 * frame : 16 + 2 * frame] = 1
            classes[frame, 40:50, 10 + 2 * frame : 20 + 2 * frame] = 2
        pixels = np.array([[150, 140, 120], [30, 30, 30], [200, 40, 40]], np.uint8)[classes]
        depth = np.broadcast_to(np.linspace(0.8, 1.6, 64)[:, None], classes.shape).astype(np.float16)
        np.savez(folder / "clip000000.npz", pixels=pixels, classes=classes, inverse_depth=depth)
    return tmp_path


@pytest.mark.parametrize("half", [False, True], ids=["single", "bfloat16"])
def test_a_few_steps_learn_and_the_best_weights_are_kept(clips, monkeypatch, capsys, half):
    steps = iter(range(100))
    # The clock is counted in steps, so that the test does not depend on the machine: 60 of them are a minute.
    monkeypatch.setattr(train_nano, "monotonic", lambda: float(next(steps)))
    monkeypatch.setattr(train_nano, "TOLD_EVERY", 5)
    monkeypatch.setattr(train_nano, "CLIPS_AT_ONCE", 1)
    stop, out = sorted((clips / "stop").glob("*.npz")), clips / "nano.safetensors"
    schedule = train_nano.Schedule(minutes=22 / 60, rate=2e-3)
    train_nano.train(NanoNetwork(), [clips / "train"], stop, out, schedule, half=half)
    lines = capsys.readouterr().out.splitlines()
    first, last = (float(line.split("classes ")[1].split()[0]) for line in (lines[0], lines[-1]))
    assert last < first
    assert load_network(out).stem[0].weight.abs().sum() > 0


def test_every_parameter_is_moved_by_a_step():
    network = NanoNetwork().to(memory_format=torch.channels_last)
    optimizer = train_nano._Optimizer(network, 0.1)
    optimizer.set_rate(0.01)
    before = {name: value.clone() for name, value in network.named_parameters()}
    for value in network.parameters():
        value.grad = torch.randn_like(value)
    optimizer.step()
    moved = {name: float((value - before[name]).detach().abs().mean()) for name, value in network.named_parameters()}
    assert all(0 < way < 0.02 for way in moved.values()), moved
    optimizer.zero_grad()
    assert all(value.grad is None for value in network.parameters())


def test_a_clip_without_an_object_is_told_so():
    right = Answer(
        torch.zeros(2, 4, 16, 16), torch.zeros(2, 4, 4, 4), torch.zeros(2, 16, 16), torch.tensor([9.0, -9.0])
    )
    wrong = replace(right, handled=-right.handled)
    classes = torch.zeros(2, 16, 16, dtype=torch.long)
    classes[0, 2:5, 2:5] = 2
    assert float(class_loss(right, classes, 2)) < float(class_loss(wrong, classes, 2)) - 1


def test_depth_loss_does_not_ask_for_scale_and_shift():
    truth = torch.rand(2, 16, 16) + 0.5
    assert float(depth_loss(3 * truth - 7, truth)) == pytest.approx(0, abs=0.02)
    assert float(depth_loss(torch.rand(2, 16, 16), truth)) > 0.2
    # Near must stay near: the mirrored answer is no answer.
    assert float(depth_loss(-truth, truth)) > 0.2


def test_frames_without_classes_are_not_asked():
    classes = torch.zeros(2, 16, 16, dtype=torch.long)
    classes[1] = UNTOLD
    wrong = torch.zeros(2, 4, 16, 16)
    wrong[0, 0], wrong[1, 3] = 20, 20
    answer = Answer(wrong, wrong[:, :, ::4, ::4], torch.zeros(2, 16, 16), torch.full((1,), -20.0))
    assert float(class_loss(answer, classes)) < 1e-3


def test_a_clip_has_inputs_for_each_frame(clips):
    clip = read_clip(clips / "train" / "clip000000.npz")
    assert train_nano.clip_inputs(clip.pixels).shape == (16, CHANNELS, 64, 64)
    scores = train_nano.evaluate(NanoNetwork(), [clips / "stop" / "clip000000.npz"])
    assert scores.keys() == {"object J", "robot J", "AbsRel"}
    idle = clip.classes.copy()
    idle[idle == 2] = 0
    write_clip(clips / "idle.npz", replace(clip, classes=idle))
    scores = train_nano.evaluate(NanoNetwork(), [clips / "idle.npz"])
    assert scores.keys() == {"robot J", "idle", "AbsRel"}
    assert scores["idle"] in (0, 1)


@pytest.mark.parametrize("place", [(0, 4), (20, 26), (60, 64), (3, 61)])
@pytest.mark.parametrize("side", [32, 50, 64])
def test_cuts_lie_in_the_picture_and_half_of_them_around_the_object(place, side):
    handled = np.zeros((3, 64, 64), bool)
    handled[1, 30, place[0] : place[1]] = True
    starts = [train_nano._cut_start(np.random.default_rng(seed), handled, side, axis=2) for seed in range(200)]
    assert min(starts) >= 0
    assert max(starts) <= 64 - side
    if place[1] - place[0] <= side:
        assert np.mean([start <= place[0] and place[1] <= start + side for start in starts]) >= 0.4
    assert {train_nano._cut_start(np.random.default_rng(1), handled & False, 64, axis=1)} == {0}


def test_training_goes_on_from_weights(clips, monkeypatch):
    begun = {}
    monkeypatch.setattr(train_nano, "generate", lambda folder, *_, **__: sorted(folder.glob("*.npz")))
    monkeypatch.setattr(train_nano, "train", lambda network, *_, **__: begun.update(network.state_dict()))
    save_weights(NanoNetwork(), clips / "first.safetensors")
    arguments = ["--work", str(clips), "--start", str(clips / "first.safetensors")]
    monkeypatch.setattr("sys.argv", ["train_nano", *arguments])
    train_nano.main()
    given = load_network(clips / "first.safetensors").state_dict()
    assert all(torch.equal(begun[name], value) for name, value in given.items())
