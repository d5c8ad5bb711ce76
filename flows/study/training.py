"""Trains one run of a study, so that it can be stopped anywhere and gone on with.

In a seed all conditions have the same initial weights, batches, dropout and directions of SIGReg: each step draws from
generators that the seed and the step's number alone fix, and heads are built after the model from a generator of their
own. What differs is the head.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from extractors.errors import PacketError
from flows.study.conditions import Heads
from flows.study.data import as_inputs, load_batch, open_packets, training_targets
from flows.study.plan import Run, StudyPlan
from flows.study.stable_worldmodel import StableWorldModel
from flows.study.world_model import SIGREG_WEIGHT, LatentDynamics, WorldModel
from packers.atomic import write_whole, written_whole
from packers.training.loader import PacketLoader

MODEL_FILE, CURVES_FILE, STATE_FILE = "model.safetensors", "training.json", "state.pt"

WEIGHT_DECAY = 1e-3
CLIP_NORM = 1.0
WARM_UP = 0.05
"""As the official configuration of LeWorldModel: gradients are clipped, the rate rises over a twentieth of the steps
and falls as a cosine."""

SCALE_WINDOWS = 64
"""Training windows that the units of vector targets are taken from."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Trained:
    """A run that was trained.

    Attributes:
        model: the world model, in evaluation mode.
        curves: name -> its mean over each epoch: `prediction`, `sigreg`, `head`.
        diverged: whether a loss was no longer a number; the run is reported, and takes no part in means.
        seconds: of training.
        steps: taken.
    """

    model: LatentDynamics
    curves: dict[str, list[float]]
    diverged: bool
    seconds: float
    steps: int


def train(plan: StudyPlan, run: Run, device: str = "cpu", progress: Progress = lambda step, steps: None) -> Trained:
    """Trains a run, or goes on with it; what it makes is in the run's folder.

    Raises:
        ConfigError: no window is there for a batch.
        PacketError: a packet is damaged or was replaced.
        OutputError: the folder cannot be written.
    """
    folder = plan.folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(plan, run, device)
    if (folder / STATE_FILE).exists():
        trainer.load(folder / STATE_FILE)
    began = time.monotonic()
    for epoch in range(trainer.epoch, plan.settings.epochs):
        if not trainer.train_epoch(progress):
            break
        # The last epoch's is the result itself.
        if epoch + 1 < plan.settings.epochs:
            trainer.seconds += time.monotonic() - began
            trainer.save(folder / STATE_FILE)
            began = time.monotonic()
    trainer.seconds += time.monotonic() - began
    _keep(trainer, folder)
    return trainer.result()


class Trainer:
    """The state of a run that is being trained."""

    def __init__(self, plan: StudyPlan, run: Run, device: str = "cpu") -> None:
        self.settings, self.run, self.device = plan.settings, run, device
        condition = plan.condition(run)
        self.dataset = open_packets(plan, run, "train", training_targets(condition, self.settings, plan, run))
        self.loader = PacketLoader(self.dataset, self.settings.batch, seed=run.seed, drop_last=True)
        width = self.dataset.action_width * (self.settings.frameskip or 1)
        torch.manual_seed(run.seed)
        self.model = build_model(self.settings.model, plan, width).to(device)
        torch.manual_seed(run.seed + 1_000_003)
        tokens = self.settings.sizes.patches if self.settings.tokens == "patches" else 1
        shapes = {name: field[0] for name, field in self.dataset.fields.items()}
        self.heads = Heads(condition, self.settings.sizes, tokens, shapes).to(device)
        self.heads.fit_scales(load_batch(self.dataset, SCALE_WINDOWS))
        self.heads.scales = {name: scale.to(device) for name, scale in self.heads.scales.items()}
        parameters = [*self.model.parameters(), *self.heads.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=self.settings.learning_rate, weight_decay=WEIGHT_DECAY)
        self.epoch, self.step, self.seconds, self.diverged = 0, 0, 0.0, False
        self.curves: dict[str, list[float]] = {"prediction": [], "sigreg": [], "head": []}

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return len(self.loader) * self.settings.epochs

    def train_epoch(self, progress: Progress = lambda step, steps: None) -> bool:
        """One pass over the training windows; False where the run diverged."""
        self.model.train()
        totals: list[tuple[float, float, float]] = []
        for batch in self.loader:
            if "action" not in batch:
                raise PacketError("no window of a batch can be read; see the warnings")
            totals.append(self.train_step(as_inputs(batch, self.device)))
            progress(self.step, self.steps)
            if not all(map(math.isfinite, totals[-1])):
                self.diverged = True
                break
        for name, values in zip(self.curves, zip(*totals, strict=True), strict=True):
            self.curves[name].append(sum(values) / len(values))
        self.epoch += 1
        return not self.diverged

    def train_step(self, batch: dict[str, Tensor]) -> tuple[float, float, float]:
        """One step; the losses of prediction, SIGReg and heads before it."""
        prediction, sigreg, head = self.losses(batch)
        total = prediction + SIGREG_WEIGHT * sigreg
        if head is not None:
            total = total + self.settings.weight * head
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * _schedule(self.step, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_([*self.model.parameters(), *self.heads.parameters()], CLIP_NORM)
        self.optimizer.step()
        self.step += 1
        return prediction.item(), sigreg.item(), 0.0 if head is None else head.item()

    def losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of one batch at the current step: prediction, SIGReg, heads."""
        number = self.run.seed * 1_000_000_007 + self.step
        # Dropout draws from the global generator; heads have a generator of their own, as the number of their draws
        # would move all that is drawn after them.
        torch.manual_seed(number)
        own, heads_own = torch.Generator().manual_seed(number + 1), torch.Generator().manual_seed(number + 2)
        with _precision(self.device):
            error, sigreg, latents = self.model.losses(batch["frames"], batch["action"], own)
            patches = self.model.patches(batch["frames"]) if self.heads.reads_patches else latents
            return error, sigreg, self.heads.loss(latents, patches, batch, heads_own)

    def save(self, path: Path) -> None:
        """Keeps everything that going on takes."""
        state = {
            "model": self.model.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loader": {**self.loader.state_dict(), "fixed": None},
            "curves": self.curves,
            "numbers": [self.epoch, self.step, self.seconds],
        }
        with written_whole(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Goes on where `save` was called."""
        state: dict[str, Any] = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.loader.load_state_dict({**state["loader"], "fixed": self.loader.state_dict()["fixed"]})
        self.curves = state["curves"]
        self.epoch, self.step, self.seconds = state["numbers"]

    def result(self) -> Trained:
        """What was trained."""
        return Trained(self.model.eval(), self.curves, self.diverged, self.seconds, self.step)


def build_model(name: str, plan: StudyPlan, action_width: int) -> LatentDynamics:
    """The world model that `--model` names, with fresh weights.

    Raises:
        ConfigError: stable-worldmodel is asked for and not installed.
    """
    if name == "stable-worldmodel":
        return StableWorldModel(plan.settings.sizes, action_width, plan.settings.tokens)
    return WorldModel(plan.settings.sizes, action_width, plan.settings.tokens)


def read_trained(plan: StudyPlan, run: Run) -> Trained:
    """A finished run.

    Raises:
        WeightsError: its weights cannot be read.
    """
    from flows.study.checkpoint import load_world_model

    folder = plan.folder(run)
    record = json.loads((folder / CURVES_FILE).read_text(encoding="utf-8"))
    model = load_world_model(folder / MODEL_FILE, plan.settings.tokens)
    return Trained(model, record["curves"], record["diverged"], record["seconds"], record["steps"])


def _keep(trainer: Trainer, folder: Path) -> None:
    from safetensors.torch import save

    tensors = {name: tensor.cpu().contiguous() for name, tensor in trainer.model.state_dict().items()}
    write_whole(folder / MODEL_FILE, save(tensors))
    record = {
        "condition": trainer.run.condition,
        "seed": trainer.run.seed,
        "episodes": trainer.run.episodes,
        "curves": trainer.curves,
        "diverged": trainer.diverged,
        "seconds": round(trainer.seconds, 3),
        "steps": trainer.step,
    }
    # Last: whoever finds it finds the model beside it.
    write_whole(folder / CURVES_FILE, json.dumps(record, indent=1) + "\n")
    (folder / STATE_FILE).unlink(missing_ok=True)


def _schedule(step: int, steps: int) -> float:
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _precision(device: str) -> Any:
    """bfloat16 where the device computes in it."""
    if device.startswith("cuda") and torch.cuda.is_bf16_supported():
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()
