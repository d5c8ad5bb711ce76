"""The conditions of a study: what each trains beside the prediction, and the controls that keep it honest.

A condition is a head on the world model's latents with a target cut from the packets and a loss of its own. Two
controls: `nothing`, a head whose target is noise drawn again at each step, and `NAME-shuffled`, NAME's head with the
targets of other windows. What helps as much as these helps by regularising, not by what the cue says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from extractors.errors import ConfigError
from flows.study.world_model import WorldModelSizes
from packers.training.heads import DepthHead, TokenHead, VectorHead
from packers.training.losses import (
    masked_bce,
    masked_huber,
    masked_mse,
    scale_shift_invariant_l1,
    sigma_weighted,
)
from packers.training.targets import (
    CONDITIONS,
    DEPTH_SIZE,
    Centroids,
    Depth,
    Masks,
    Shape,
    Stored,
    Target,
    Tracks,
    TrackTokens,
)

BASELINE = "A"
NOTHING = "nothing"
SHUFFLED = "-shuffled"
CONTROLS = ("nothing", "shuffled")

LABELS = {
    "A": "no head",
    "B": "depth",
    "C-tight": "depth of the object",
    "C-8": "depth, object and 8 px around it",
    "C-20": "depth, object and 20 px around it",
    "C-weighted": "depth, object weighted 5 times",
    "D": "tracks",
    "D-tokens": "tracks, a token each",
    "E": "depth and tracks",
    "F": "centroid",
    "G": "shape",
    "M": "mask",
    NOTHING: "a head on noise",
}
"""What each condition is, in words."""

_FULL_DEPTH = Depth(name="depth_full")
"""What the variants of depth are aligned over: medians of an object's few pixels scatter, see the loss."""

NOISE_WIDTH = 10

Batch = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Condition:
    """What a run trains beside the prediction.

    Attributes:
        name: a key of `CONDITIONS`, `dataset:NAME` for numbers of a packet as they are, or a control's.
        targets: what the heads are trained on.
        shuffled: each window gets another window's targets.
    """

    name: str
    targets: tuple[Target, ...] = ()
    shuffled: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Datasets that packets must have."""
        return tuple(dict.fromkeys(name for target in self.targets for name in target.needs))

    @property
    def label(self) -> str:
        """In words."""
        name = self.name.removesuffix(SHUFFLED)
        said = LABELS.get(name, name)
        return f"{said}, of other windows" if self.shuffled else said

    @property
    def cut(self) -> tuple[Target, ...]:
        """All that the losses read: the targets, and the whole frame's depth beside the object's."""
        tight = any(isinstance(target, Depth) and target.variant not in ("full", "weighted") for target in self.targets)
        return (*self.targets, _FULL_DEPTH) if tight else self.targets


def named_conditions(names: Sequence[str], controls: Sequence[str]) -> list[Condition]:
    """The conditions by their names, with the controls that are asked for.

    Raises:
        ConfigError: a name is unknown.
    """
    if unknown := set(controls) - set(CONTROLS):
        raise ConfigError(f"controls are {list(CONTROLS)}, got {sorted(unknown)}")
    found = [Condition(name, _targets(name)) for name in names]
    trained = [condition for condition in found if condition.targets]
    if "shuffled" in controls:
        found += [replace(each, name=f"{each.name}{SHUFFLED}", shuffled=True) for each in trained]
    if "nothing" in controls and trained:
        found.append(Condition(NOTHING))
    return found


def _targets(name: str) -> tuple[Target, ...]:
    if name.startswith("dataset:"):
        return (Stored(name.removeprefix("dataset:")),)
    if name not in CONDITIONS:
        raise ConfigError(f"no condition '{name}'; there are {', '.join(CONDITIONS)}, and dataset:NAME")
    return CONDITIONS[name]


class Heads(nn.Module):
    """The heads of one condition and their losses.

    Args:
        condition: which.
        sizes: of the world model.
        tokens: latents a frame: 1, or the number of patches.
        shapes: key -> shape of a batch's entry without the batch, as `PacketDataset.fields` has them.
    """

    def __init__(
        self, condition: Condition, sizes: WorldModelSizes, tokens: int, shapes: dict[str, tuple[int, ...]]
    ) -> None:
        super().__init__()
        self.condition = condition
        self.tokens = tokens
        self.heads = nn.ModuleList([_head(target, sizes, tokens, shapes) for target in condition.targets])
        if condition.name == NOTHING:
            self.heads.append(VectorHead((NOISE_WIDTH,), sizes.latent))
        self.scales: dict[str, Tensor] = {}

    def fit_scales(self, batch: Batch) -> None:
        """Takes the units of vectors from a batch of training windows, so that every loss begins at about 1.

        Displacements are some hundredths of a frame and centroids some tenths of a metre: a weight that is the same
        for all heads would mean another thing for each.
        """
        for target in self.condition.targets:
            if isinstance(target, Tracks | TrackTokens):
                name = target.name if isinstance(target, Tracks) else f"{target.name}_displacement"
                moved, weight = batch[name], batch[f"{target.name}_weight"]
                spread = (moved.square().mean(-1) * weight).sum() / weight.sum().clamp(min=1)
                self.scales[target.name] = torch.stack([torch.zeros(()), spread.sqrt().clamp(min=1e-4)])
            elif isinstance(target, Centroids | Stored):
                name = target.name if isinstance(target, Centroids) else target.dataset
                values = batch[name].float().flatten(2)
                kept = (batch[f"{name}_weight"] > 0) & values.isfinite().all(-1)
                rows = values[kept] if kept.any() else torch.zeros(1, values.shape[-1])
                mean, std = rows.mean(0), rows.std(0, correction=0)
                self.scales[name] = torch.stack([mean, torch.where(std > 1e-6, std, torch.ones_like(std))])

    @property
    def reads_patches(self) -> bool:
        """Whether a head reads the encoder's patches, which the latents are without."""
        return self.tokens == 1 and any(isinstance(target, TrackTokens) for target in self.condition.targets)

    def loss(self, latents: Tensor, patches: Tensor, batch: Batch, generator: torch.Generator) -> Tensor | None:
        """The heads' losses added up; None without a head.

        Args:
            latents: (B, n, K, D) of the world model.
            patches: (B, n, P, W) tokens of the encoder's patches, for heads on places.
            batch: what the dataset gives, as tensors.
            generator: draws noise and which window's targets are taken.
        """
        if not self.heads:
            return None
        if self.condition.shuffled:
            batch = _of_others(batch, generator)
        if self.condition.name == NOTHING:
            noise = torch.randn(*latents.shape[:2], NOISE_WIDTH, generator=generator).to(latents.device)
            said = self.heads[0](latents.mean(2))
            return masked_mse(said, noise, torch.ones(latents.shape[:2], device=latents.device))
        pairs = zip(self.condition.targets, self.heads, strict=True)
        return torch.stack([self._one(target, head, latents, patches, batch) for target, head in pairs]).sum()

    def _one(self, target: Target, head: nn.Module, latents: Tensor, patches: Tensor, batch: Batch) -> Tensor:
        pooled = latents.mean(2)
        name: Any = getattr(target, "name", getattr(target, "dataset", ""))
        weight = batch[f"{name}_weight"]
        if isinstance(target, Depth):
            full = batch.get(_FULL_DEPTH.name, batch[name])
            region = batch.get(f"{_FULL_DEPTH.name}_weight", weight) > 0
            return scale_shift_invariant_l1(head(latents), full, weight, region)
        if isinstance(target, Masks):
            return masked_bce(head(latents), batch[name], weight)
        if isinstance(target, TrackTokens):
            unit = self.scales[name][1]
            tokens = latents if self.tokens > 1 else patches
            ahead = torch.arange(latents.shape[1], device=latents.device) - target.anchor
            displacement = head(
                tokens[:, target.anchor], batch[f"{name}_patch"][:, target.anchor], batch[f"{name}_position"], ahead
            )
            return masked_huber(displacement, batch[f"{name}_displacement"] / unit, weight, delta=1.0)
        if isinstance(target, Tracks):
            # A frame alone does not say from where its points came, so the head reads what changed in the latent.
            moved = pooled - pooled[:, target.anchor : target.anchor + 1]
            return masked_huber(head(moved), batch[name] / self.scales[name][1], weight, delta=1.0)
        if isinstance(target, Centroids):
            mean, std = self.scales[name]
            sigma = batch[f"{name}_sigma"] / std
            # Errors within one deviation of the training episodes count alike; what is known worse counts less.
            return sigma_weighted(head(pooled), (batch[name] - mean) / std, sigma, weight, floor=1.0)
        if isinstance(target, Shape):
            return masked_mse(head(pooled), batch[name], weight)
        mean, std = self.scales[name]
        values = batch[name].float().flatten(2)
        weight = weight * values.isfinite().all(-1)
        return masked_mse(head(pooled), torch.nan_to_num((values - mean) / std), weight)


class PatchMapHead(nn.Module):
    """A latent for each patch (B, n, P, D) to a map (B, n, 56, 56): each patch draws its own part."""

    def __init__(self, latent: int, patches: int) -> None:
        super().__init__()
        self.grid = round(patches**0.5)
        self.cells = -(-DEPTH_SIZE[0] // self.grid)
        self.layers = nn.Sequential(nn.Linear(latent, latent), nn.GELU(), nn.Linear(latent, self.cells**2))

    def forward(self, latents: Tensor) -> Tensor:
        """(B, n, P, D) to (B, n, 56, 56)."""
        count, frames = latents.shape[:2]
        parts = self.layers(latents).reshape(count * frames, self.grid, self.grid, self.cells, self.cells)
        whole = parts.permute(0, 1, 3, 2, 4).reshape(count * frames, 1, self.grid * self.cells, -1)
        maps = functional.interpolate(whole, size=DEPTH_SIZE, mode="bilinear", align_corners=False)
        return maps.reshape(count, frames, *DEPTH_SIZE)


class _FrameMapHead(DepthHead):
    """`DepthHead` on the one latent of a frame (B, n, 1, D)."""

    def forward(self, latents: Tensor) -> Tensor:
        return super().forward(latents[:, :, 0])


def _head(target: Target, sizes: WorldModelSizes, tokens: int, shapes: dict[str, tuple[int, ...]]) -> nn.Module:
    if isinstance(target, Depth | Masks):
        return PatchMapHead(sizes.latent, tokens) if tokens > 1 else _FrameMapHead(sizes.latent, sizes.map_channels)
    if isinstance(target, TrackTokens):
        return TokenHead(sizes.latent if tokens > 1 else sizes.width)
    name: Any = getattr(target, "name", getattr(target, "dataset", ""))
    shape = shapes[name][1:]
    if isinstance(target, Tracks):
        return VectorHead(shape, sizes.latent, hidden=135)
    return VectorHead((int(torch.Size(shape).numel()),), sizes.latent)


def _of_others(batch: Batch, generator: torch.Generator) -> Batch:
    """The batch with every window's entries moved on to another window."""
    count = len(batch["action"])
    by = int(torch.randint(1, count, (1,), generator=generator)) if count > 1 else 0
    return {name: value.roll(by, 0) if value.ndim and len(value) == count else value for name, value in batch.items()}
