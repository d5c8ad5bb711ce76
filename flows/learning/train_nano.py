"""Trains the nano network on generated scenes.

    python -m flows.learning.train_nano --work WORK [--clips 4000] [--minutes 98] [--seed 0] [--device cpu]

WORK gets the clips (drawn once) and the best weights so far. Stops after `--minutes`; the weights that do best on
clips of another seed are kept. Multiplies in bfloat16 unless `--single`. The packaged ones: docs/nano.md.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from extractors.backends.devices import choose_device
from extractors.backends.nano.inputs import Scenery, median_picture, network_inputs, still_inputs
from extractors.backends.nano.network import CLASSES, Answer, NanoNetwork
from extractors.backends.nano.weights import load_network, save_weights
from flows.learning.clips import DRAWN_PX, N_FRAMES, Clip, generate, read_clip
from flows.learning.looks import other_look
from flows.learning.losses import UNTOLD, class_loss, depth_loss
from flows.scenes.textures import Rng

CLIPS_AT_ONCE, FRAMES_AT_ONCE = 4, 8
"""A step's clips, and frames of each."""

SIDE = 96
"""Of a step's frames, pixels."""

CUT = (0.5, 1.0)
"""Least and most side of a step's part of the picture, over the picture's shorter one: masks are looked for in windows
of that size too (`extractors.backends.nano.window`)."""

WEIGHT_DECAY = 0.01

STOP_SEED = 900
"""Of the clips on which training stops early; training clips have other seeds."""

N_STOP = 60

TOLD_EVERY = 500
"""Steps between two looks at the clips on which training stops."""

LISTED_EVERY = 100
"""Steps between two looks at the folders: clips may still be drawn, and sorting thousands of names takes time."""

Drawn = tuple[Tensor, Tensor, Tensor]
"""Inputs (n, CHANNELS, side, side), classes (n, side, side) int64 and inverse depth (n, side, side) in 1/m."""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for clips and weights")
    parser.add_argument("--clips", type=int, default=4000, help="training clips; default: 4000")
    parser.add_argument("--drawn", type=int, default=DRAWN_PX, help=f"side of the clips, pixels; default: {DRAWN_PX}")
    parser.add_argument(
        "--frames", type=int, default=N_FRAMES, help=f"of a clip, {FRAMES_AT_ONCE} at least; default: {N_FRAMES}"
    )
    parser.add_argument("--minutes", type=float, default=98.0, help="of training; default: 98")
    parser.add_argument("--rate", type=float, default=4e-3, help="highest learning rate; default: 0.004")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=SIDE, help=f"of a step's frames, pixels; default: {SIDE}")
    parser.add_argument("--start", type=Path, help="weights from which training goes on; default: random ones")
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda; default: cpu")
    parser.add_argument("--single", action="store_true", help="single precision: for CPUs that lack bfloat16")
    parser.add_argument("--growing", action="store_true", help="train on the clips that are there, draw none")
    options = parser.parse_args()
    if options.frames < FRAMES_AT_ONCE:
        parser.error(f"--frames {options.frames}: a step takes {FRAMES_AT_ONCE} frames of a clip")
    device = choose_device(options.device)
    cv2.setNumThreads(1)
    stop = list(generate(options.work / "stop", N_STOP, STOP_SEED))
    if not options.growing:
        size = {"side": options.drawn, "frames": options.frames}
        for _ in generate(options.work / "train", options.clips, 100 + options.seed, **size):
            pass
    network, out = load_network(options.start) if options.start else NanoNetwork(), options.work / "nano.safetensors"
    schedule = Schedule(minutes=options.minutes, rate=options.rate, seed=options.seed, side=options.side)
    train(network, [options.work / "train"], stop, out, schedule, half=not options.single, device=device)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long, how fast, and with which draws.

    Attributes:
        minutes: of training.
        rate: highest learning rate.
        seed: of the order and the looks of the clips.
        side: of a step's frames, pixels; a multiple of the network's stride.
    """

    minutes: float
    rate: float
    seed: int = 0
    side: int = SIDE


CPU = torch.device("cpu")


def train(
    network: NanoNetwork,
    pools: Sequence[Path],
    stop: Sequence[Path],
    out: Path,
    schedule: Schedule,
    *,
    half: bool = False,
    device: torch.device = CPU,
) -> None:
    """Trains on the clips in the folders `pools`, as much on one as on another; writes `out` when `stop` goes better.

    Clips are varied between the steps: on two cores a thread of their own held the steps up. With `half`, convolutions
    multiply in bfloat16; weights and losses are in single precision all the same.
    """
    torch.manual_seed(schedule.seed)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = _Optimizer(network, schedule.rate)
    averaged = deepcopy(network)
    begin, share, step, best, losses = monotonic(), 0.0, 0, -np.inf, []
    draws = _draws(pools, schedule)
    while share < 1:
        # Up over the first hundred steps, down as a cosine over the time that is left.
        optimizer.set_rate(schedule.rate * min((step + 1) / 100, 0.5 + 0.5 * np.cos(np.pi * share)) + 1e-6)
        losses.append(_step(network, optimizer, next(draws), half=half))
        _follow(averaged, network)
        step, share = step + 1, (monotonic() - begin) / (60 * schedule.minutes)
        if step % TOLD_EVERY == 0 or share >= 1:
            scores = evaluate(averaged, stop)
            line = " ".join(f"{name} {value:.3f}" for name, value in scores.items())
            mean = np.mean(losses[-TOLD_EVERY:], axis=0)
            print(f"{share:.2f} step {step} classes {mean[0]:.3f} depth {mean[1]:.3f} | {line}", flush=True)
            value = scores["object J"] + 0.3 * scores["robot J"] + 0.1 * scores.get("idle", 0) - scores["AbsRel"]
            if value > best:
                best = value
                save_weights(averaged, out)


class _Optimizer:
    """Muon (Jordan et al., 2024) for the convolutions inside, AdamW for the rest: stem, heads, norms, linear layers.

    In five minutes of training, object J of the stopping clips was 0.40 with it and 0.33 with AdamW alone.
    """

    def __init__(self, network: NanoNetwork, rate: float) -> None:
        """Of a network whose weights are in channels-last order."""
        ends = ("stem", "first", "head")
        self._inside = [p for name, p in network.named_parameters() if p.ndim == 4 and name.split(".")[0] not in ends]
        taken = {id(p) for p in self._inside}
        rest = [p for p in network.parameters() if id(p) not in taken]
        # Muon takes matrices, which channels-last weights are, seen another way.
        self._matrices = [nn.Parameter(_as_matrix(p.detach())) for p in self._inside]
        self._both = (
            torch.optim.AdamW(rest, lr=rate, weight_decay=WEIGHT_DECAY, fused=True),
            torch.optim.Muon(self._matrices, lr=rate, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        )

    def set_rate(self, rate: float) -> None:
        for optimizer in self._both:
            for group in optimizer.param_groups:
                group["lr"] = rate

    def zero_grad(self) -> None:
        for parameter in self._inside:
            parameter.grad = None
        self._both[0].zero_grad()

    def step(self) -> None:
        for parameter, matrix in zip(self._inside, self._matrices, strict=True):
            matrix.grad = None if parameter.grad is None else _as_matrix(parameter.grad)
        for optimizer in self._both:
            optimizer.step()


def _as_matrix(weight: Tensor) -> Tensor:
    """(out, height * width * in) of a convolution's (out, in, height, width), in the same memory."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


@torch.no_grad()
def _follow(averaged: NanoNetwork, network: NanoNetwork, *, share: float = 0.01) -> None:
    """Moves the averaged weights towards the network's: their exponential mean over about 1 / share steps."""
    latest = network.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(latest[name], share)
        else:
            value.copy_(latest[name])


def _step(network: NanoNetwork, optimizer: _Optimizer, drawn: Drawn, *, half: bool) -> tuple[float, float]:
    network.train()
    device = next(network.parameters()).device
    optimizer.zero_grad()
    inputs, classes, depth = (each.to(device) for each in drawn)
    n_clips = len(inputs) // FRAMES_AT_ONCE
    with torch.autocast(device.type, torch.bfloat16, enabled=half):
        answer = network(inputs.contiguous(memory_format=torch.channels_last), n_clips)
    answer = Answer(answer.logits.float(), answer.first.float(), answer.inverse_depth.float(), answer.handled.float())
    of_classes, of_depth = class_loss(answer, classes, n_clips), depth_loss(answer.inverse_depth, depth, n_clips)
    torch.autograd.backward([of_classes + of_depth])
    torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    return float(of_classes.detach()), float(of_depth.detach())


def _draws(pools: Sequence[Path], schedule: Schedule) -> Iterator[Drawn]:
    """What steps are made of, without end: clips of the folders `pools` in turn, each varied.

    Folders are listed again now and then: clips may still be drawn.
    """
    rng = np.random.default_rng(schedule.seed)
    for step in itertools.count():
        if step % LISTED_EVERY == 0:
            paths = [sorted(pool.glob("clip*.npz")) for pool in pools]
        chosen = [paths[number % len(paths)] for number in range(CLIPS_AT_ONCE)]
        clips = [_varied(rng, read_clip(each[int(rng.integers(len(each)))]), schedule.side) for each in chosen]
        inputs, classes, depth = (torch.cat(parts) for parts in zip(*clips, strict=True))
        yield inputs, classes, depth


def _varied(rng: Rng, clip: Clip, drawn: int) -> Drawn:
    """Some of the frames, a part of the picture, mirrored, backwards, in other colours; as the network's inputs."""
    chosen = np.sort(rng.choice(len(clip.pixels), FRAMES_AT_ONCE, replace=False))
    if rng.random() < 0.3:
        chosen = chosen[::-1]
    height, width = clip.classes.shape[1:]
    side = int(rng.uniform(*CUT) * min(height, width))
    handled = clip.classes == CLASSES.index("object")
    y, x = (_cut_start(rng, handled, side, axis) for axis in (1, 2))
    flip = -1 if rng.random() < 0.5 else 1

    def cut(maps: np.ndarray, how: int) -> np.ndarray:
        part = maps[chosen, y : y + side, x : x + side][:, :, ::flip]
        return np.stack([cv2.resize(np.ascontiguousarray(each), (drawn, drawn), interpolation=how) for each in part])

    pixels = cut(clip.pixels, cv2.INTER_LINEAR)
    shown = cut(clip.classes, cv2.INTER_NEAREST_EXACT)
    pixels = other_look(rng, pixels, shown, len(CLASSES))
    classes = torch.from_numpy(shown.astype(np.int64))
    inverse = torch.from_numpy(cut(clip.inverse_depth, cv2.INTER_NEAREST_EXACT))
    inputs = clip_inputs(pixels)
    if rng.random() < 0.5:  # at inference, the depth of the clip's background is asked for
        at, still = int(rng.integers(len(chosen))), median_picture(pixels)
        inputs[at], classes[at], inverse[at] = still_inputs(still)[0], UNTOLD, inverse.median(0).values
    return inputs, classes, inverse


def clip_inputs(pixels: np.ndarray) -> Tensor:
    """The network's inputs of a clip (T, H, W, 3) that is seen whole."""
    at = np.arange(len(pixels))
    before, after = pixels[np.maximum(at - 1, 0)], pixels[np.minimum(at + 1, len(pixels) - 1)]
    inputs = network_inputs(pixels, before, after, Scenery.of(pixels))
    return inputs.contiguous(memory_format=torch.channels_last)


def _cut_start(rng: Rng, handled: np.ndarray, side: int, axis: int) -> int:
    """Where a cut of `side` begins along an axis of maps (T, H, W): anywhere, half of the time around the object."""
    least, most = 0, handled.shape[axis] - side
    at = np.flatnonzero(handled.any(axis=tuple({0, 1, 2} - {axis})))
    if len(at) and rng.random() < 0.5:  # as far as it fits
        least, most = sorted(int(np.clip(end, least, most)) for end in (at[-1] + 1 - side, at[0]))
    return int(rng.integers(least, most + 1))


@torch.no_grad()
def evaluate(network: NanoNetwork, paths: Sequence[Path]) -> dict[str, float]:
    """Means over clips: J of object and robot over all frames, AbsRel of depth after one scale and shift in 1/m.

    `idle` is the share of the clips without an object in which none is seen.
    """
    network.eval()
    device = next(network.parameters()).device
    rows: list[dict[str, float]] = []
    for path in paths:
        clip = read_clip(path)
        answer = network(clip_inputs(clip.pixels).to(device))
        found = answer.logits.argmax(1).cpu().numpy()
        row = {f"{CLASSES[k]} J": _jaccard(found == k, clip.classes == k) for k in (2, 1) if (clip.classes == k).any()}
        if "object J" not in row:
            row["idle"] = float(not (found == CLASSES.index("object")).any())
        rows.append(row | {"AbsRel": _abs_rel(answer.inverse_depth.cpu().numpy(), clip.inverse_depth)})
    names = ("object J", "robot J", "idle", "AbsRel")
    return {name: float(np.mean(of)) for name in names if (of := [row[name] for row in rows if name in row])}


def _jaccard(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


def _abs_rel(predicted: np.ndarray, target: np.ndarray) -> float:
    given = target > 0
    scale, shift = np.polyfit(predicted[given], target[given], 1)
    depth = 1 / np.maximum(scale * predicted[given] + shift, target[given].min())
    return float(np.mean(np.abs(depth * target[given] - 1)))


if __name__ == "__main__":
    main()
