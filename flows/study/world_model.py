"""LeWorldModel: a world model that predicts the next frame's latent, trained end to end from pixels.

After Maes et al. 2026 (arXiv 2603.19312): a ViT gives one CLS token a frame, a projector with batch normalisation the
latent; a causal transformer whose blocks are modulated by the actions (adaLN-zero, Peebles and Xie 2023) predicts the
next latent of each frame; SIGReg (Balestriero and LeCun 2025, arXiv 2511.08544) keeps latents from collapsing. No
stop-gradient, no teacher. `predictor="patches"` keeps a latent for each patch instead of one for the frame, so that
heads read what is at a place.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from extractors.errors import ShapeError

PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, per channel of RGB in [0, 1], as the official checkpoints were trained with."""

SIGREG_WEIGHT = 0.09
"""Of SIGReg beside the prediction, as the official configuration has it."""

Tokens = Literal["cls", "patches"]


@dataclass(frozen=True, slots=True)
class WorldModelSizes:
    """Sizes of a network; the names of `SIZES` are what `--model` takes.

    Attributes:
        side: of the square frames, pixels; a multiple of `patch`.
        patch: side of a patch, pixels.
        width, depth, heads: of the encoder.
        latent: numbers of a latent.
        hidden: of the two projectors.
        predictor_depth, predictor_heads, head_width, predictor_hidden: of the predictor.
        dropout: of the predictor, in training.
        history: frames that a prediction looks back on.
        projections: random directions of SIGReg at each step.
        map_channels: of heads that draw a map from a frame's latent; 38 make the study's 400 K parameters.
    """

    side: int
    patch: int
    width: int
    depth: int
    heads: int
    latent: int = 192
    hidden: int = 2048
    predictor_depth: int = 6
    predictor_heads: int = 16
    head_width: int = 64
    predictor_hidden: int = 2048
    dropout: float = 0.1
    history: int = 3
    projections: int = 1024
    map_channels: int = 38

    @property
    def patches(self) -> int:
        """Patches of a frame."""
        return (self.side // self.patch) ** 2


SIZES = {
    "tiny": WorldModelSizes(64, 8, 64, 3, 2, 192, 384, 2, 4, 32, 384, projections=256, map_channels=12),
    "lewm": WorldModelSizes(224, 14, 192, 12, 3),
}
"""`tiny` is for CPUs, where a head of 38 channels would take six times as long as the model; `lewm` is the published
network, ViT-Tiny at 224 pixels, 18 M parameters."""


class LatentDynamics(nn.Module, ABC):
    """What training asks of a world model: latents of frames, the next ones, and their losses.

    Attributes:
        sizes: of the network.
        tokens: "cls", one latent a frame as published, or "patches", one for each patch.
        action_width: numbers of the actions between one frame and the next.
    """

    sizes: WorldModelSizes
    tokens: Tokens
    action_width: int

    @abstractmethod
    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, T, K, D) of RGB frames (B, T, H, W, 3) uint8; K is 1, or the number of patches."""

    @abstractmethod
    def patches(self, frames: Tensor) -> Tensor:
        """The encoder's tokens of the patches of (B, T, H, W, 3) frames, (B, T, P, width)."""

    @abstractmethod
    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The next latents after (B, T, K, D) under actions (B, T, A), each from what is not after it; the same shape.

        T is at most `sizes.history`.
        """

    def losses(self, frames: Tensor, actions: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction error and SIGReg of windows, and the latents that heads read.

        Args:
            frames: (B, T, H, W, 3) uint8, T one more than `sizes.history` at most.
            actions: (B, T, A); the last one's lead out of the window and are not used.
            generator: draws SIGReg's directions, so that no condition's draws depend on another's.
        """
        latents = self.encode(frames)
        predicted = self.predict(latents[:, :-1], actions[:, :-1])
        error = functional.mse_loss(predicted.float(), latents[:, 1:].float())
        return error, sigreg(latents.float().transpose(0, 1).flatten(1, 2), self.sizes.projections, generator), latents


class WorldModel(LatentDynamics):
    """Encoder, action embedding and predictor.

    Args:
        sizes: of the network.
        action_width: numbers of the actions between one frame and the next.
        tokens: "cls", one latent a frame as published, or "patches", one for each patch.
    """

    def __init__(self, sizes: WorldModelSizes, action_width: int, tokens: Tokens = "cls") -> None:
        super().__init__()
        if sizes.side % sizes.patch:
            raise ShapeError(f"patches of {sizes.patch} px do not fill frames of {sizes.side} px")
        self.sizes = sizes
        self.tokens: Tokens = tokens
        self.action_width = action_width
        self.encoder = Encoder(sizes)
        self.projector = _projector(sizes.width, sizes.hidden, sizes.latent)
        self.action_encoder = ActionEncoder(action_width, sizes.latent)
        self.predictor = Predictor(sizes, sizes.patches if tokens == "patches" else 1)
        self.predicted_projector = _projector(sizes.latent, sizes.hidden, sizes.latent)

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, T, K, D) of RGB frames (B, T, H, W, 3) uint8; K is 1, or the number of patches."""
        lead = frames.shape[:2]
        if frames.shape[2:] != (self.sizes.side, self.sizes.side, 3):
            raise ShapeError(f"wanted frames of {self.sizes.side} px, got {tuple(frames.shape[2:])}")
        found = self.encoder(frames.flatten(0, 1))
        kept = found[:, 1:] if self.tokens == "patches" else found[:, :1]
        latents: Tensor = self.projector(kept.reshape(-1, kept.shape[-1]))
        return latents.reshape(*lead, kept.shape[1], -1)

    def patches(self, frames: Tensor) -> Tensor:
        """The encoder's tokens of the patches of (B, T, H, W, 3) frames, (B, T, P, width)."""
        found: Tensor = self.encoder(frames.flatten(0, 1))[:, 1:]
        return found.reshape(*frames.shape[:2], *found.shape[1:])

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The next latents after (B, T, K, D) under actions (B, T, A), each from what is not after it; the same shape.

        T is at most `sizes.history`.
        """
        predicted = self.predictor(latents, self.action_encoder(actions))
        return self.predicted_projector(predicted.reshape(-1, predicted.shape[-1])).reshape(latents.shape)  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021), normalised before each part."""

    def __init__(self, sizes: WorldModelSizes) -> None:
        super().__init__()
        width = sizes.width
        self.embed = nn.Conv2d(3, width, sizes.patch, stride=sizes.patch)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.place = nn.Parameter(torch.randn(1, sizes.patches + 1, width) * 0.02)
        self.blocks = nn.ModuleList([_Block(width, sizes.heads) for _ in range(sizes.depth)])
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(PIXEL_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Tokens (N, 1 + patches, width) of frames (N, H, W, 3) uint8; the CLS token is the first."""
        pixels = (frames.permute(0, 3, 1, 2).float() - self.mean) / self.std
        patches = self.embed(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(patches), -1, -1), patches], 1) + self.place
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        # As ViTModel of Hugging Face has it, which the official checkpoints' encoder is.
        self.first, self.second = nn.LayerNorm(width, eps=1e-12), nn.LayerNorm(width, eps=1e-12)
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.grow, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.out(_attended(self.qkv(self.first(x)), self.heads))
        fed: Tensor = self.shrink(functional.gelu(self.grow(self.second(x))))
        return x + fed


class ActionEncoder(nn.Module):
    """Actions (B, T, A) to one embedding a frame (B, T, D)."""

    SMOOTHED = 10

    def __init__(self, width: int, latent: int) -> None:
        super().__init__()
        self.smooth = nn.Linear(width, self.SMOOTHED)
        self.layers = nn.Sequential(nn.Linear(self.SMOOTHED, 4 * latent), nn.SiLU(), nn.Linear(4 * latent, latent))

    def forward(self, actions: Tensor) -> Tensor:
        """(B, T, A) to (B, T, D)."""
        embedded: Tensor = self.layers(self.smooth(actions))
        return embedded


class Predictor(nn.Module):
    """A transformer over the latents of a few frames, causal in time; each frame's actions modulate its tokens."""

    def __init__(self, sizes: WorldModelSizes, tokens: int) -> None:
        super().__init__()
        latent = sizes.latent
        self.when = nn.Parameter(torch.randn(1, sizes.history, latent))
        self.where = nn.Parameter(torch.randn(1, 1, tokens, latent) * 0.02) if tokens > 1 else None
        self.blocks = nn.ModuleList([_ModulatedBlock(sizes) for _ in range(sizes.predictor_depth)])
        self.norm = nn.LayerNorm(latent)

    def forward(self, latents: Tensor, actions: Tensor) -> Tensor:
        """(B, T, K, D) latents and (B, T, D) embedded actions to (B, T, K, D)."""
        count, frames, tokens, latent = latents.shape
        x = latents + self.when[:, :frames, None]
        if self.where is not None:
            x = x + self.where
        x = x.reshape(count, frames * tokens, latent)
        modulation = actions.repeat_interleave(tokens, dim=1)
        frame = torch.arange(frames, device=x.device).repeat_interleave(tokens)
        seen = frame[:, None] >= frame[None, :]
        for block in self.blocks:
            x = block(x, modulation, seen)
        normed: Tensor = self.norm(x).reshape(count, frames, tokens, latent)
        return normed


class _ModulatedBlock(nn.Module):
    def __init__(self, sizes: WorldModelSizes) -> None:
        super().__init__()
        width, inner = sizes.latent, sizes.predictor_heads * sizes.head_width
        self.heads, self.dropout = sizes.predictor_heads, sizes.dropout
        self.first = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.second = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        # Normalised twice, without and with weights of its own, as published.
        self.attention_norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.feed_norm = nn.LayerNorm(width)
        self.grow, self.shrink = nn.Linear(width, sizes.predictor_hidden), nn.Linear(sizes.predictor_hidden, width)
        self.modulate = nn.Linear(width, 6 * width)
        # Zero: at first every block passes its input on, and actions matter as far as training finds that they do.
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, actions: Tensor, seen: Tensor) -> Tensor:
        shift, scale, gate, shift2, scale2, gate2 = self.modulate(functional.silu(actions)).chunk(6, dim=-1)
        given = self.attention_norm(self.first(x) * (1 + scale) + shift)
        dropout = self.dropout if self.training else 0.0
        x = x + gate * self._drop(self.out(_attended(self.qkv(given), self.heads, seen, dropout)))
        given = self.feed_norm(self.second(x) * (1 + scale2) + shift2)
        fed = self._drop(self.shrink(self._drop(functional.gelu(self.grow(given)))))
        out: Tensor = x + gate2 * fed
        return out

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)


def sigreg(latents: Tensor, projections: int, generator: torch.Generator) -> Tensor:
    """How far latents are from an isotropic Gaussian: the Epps-Pulley statistic along random directions.

    |mean(exp(i t x)) - exp(-t^2 / 2)|^2, weighted by exp(-t^2 / 2), integrated over t from -3 to 3 by trapezoids on 17
    knots of the positive half, times the sample's size, averaged over directions and time steps.

    Args:
        latents: (T, N, D), a sample of N for each time step.
        projections: random directions.
        generator: draws them.
    """
    directions = torch.randn(latents.shape[-1], projections, generator=generator).to(latents.device)
    directions = directions / directions.norm(dim=0)
    knots = torch.linspace(0, 3, 17, device=latents.device)
    gaussian = torch.exp(-knots.square() / 2)
    trapezoids = torch.full_like(knots, 2 * 3 / 16)
    trapezoids[[0, -1]] /= 2
    along = (latents @ directions)[..., None] * knots
    real, imaginary = along.cos().mean(-3), along.sin().mean(-3)
    distance = (real - gaussian).square() + imaginary.square()
    statistic: Tensor = (distance @ (trapezoids * gaussian)).mean() * latents.shape[-2]
    return statistic


def _projector(width: int, hidden: int, out: int) -> nn.Sequential:
    # Batch normalisation: the ViT ends with a layer's, after which SIGReg could not shape the distribution.
    return nn.Sequential(nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.GELU(), nn.Linear(hidden, out))


def _attended(qkv: Tensor, heads: int, seen: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    count, length, width = qkv.shape
    query, key, value = qkv.reshape(count, length, 3, heads, width // 3 // heads).permute(2, 0, 3, 1, 4)
    found = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen, dropout_p=dropout)
    return found.transpose(1, 2).reshape(count, length, width // 3)
