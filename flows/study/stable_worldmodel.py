"""stable-worldmodel's own LeWorldModel class, where it is installed (`--model stable-worldmodel`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from extractors.errors import ConfigError
from flows.study.world_model import PIXEL_MEAN, PIXEL_STD, LatentDynamics, Tokens, WorldModelSizes


class StableWorldModel(LatentDynamics):
    """The class of stable-worldmodel in its published configuration, at `sizes`.

    What it trains is kept under its own names, which `load_world_model` reads.

    Raises:
        ConfigError: the package is missing, or latents of patches are asked for, which it does not have.
    """

    def __init__(self, sizes: WorldModelSizes, action_width: int, tokens: Tokens = "cls") -> None:
        super().__init__()
        if tokens != "cls":
            raise ConfigError("stable-worldmodel's class has one latent a frame; use --model lewm with patches")
        self.sizes, self.tokens, self.action_width = sizes, tokens, action_width
        self.model: Any = _published(sizes, action_width)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", 255 * torch.tensor(PIXEL_MEAN).view(1, 1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(PIXEL_STD).view(1, 1, 3, 1, 1), persistent=False)

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (B, T, 1, D)."""
        latents: Tensor = self.model.encode({"pixels": self._pixels(frames)})["emb"]
        return latents[:, :, None]

    def patches(self, frames: Tensor) -> Tensor:
        """Tokens of the patches, (B, T, P, width)."""
        pixels = self._pixels(frames)
        found = self.model.encoder(pixels.flatten(0, 1), interpolate_pos_encoding=True).last_hidden_state[:, 1:]
        tokens: Tensor = found.reshape(*frames.shape[:2], *found.shape[1:])
        return tokens

    def predict(self, latents: Tensor, actions: Tensor) -> Tensor:
        """The next latents, (B, T, 1, D)."""
        following: Tensor = self.model.predict(latents[:, :, 0], self.model.action_encoder(actions))
        return following[:, :, None]

    def _pixels(self, frames: Tensor) -> Tensor:
        return (frames.permute(0, 1, 4, 2, 3).float() - self.mean) / self.std


def _published(sizes: WorldModelSizes, action_width: int) -> nn.Module:
    try:
        from stable_worldmodel.wm.lewm import LeWM
        from stable_worldmodel.wm.lewm.module import MLP, Embedder, Predictor
        from transformers import ViTConfig, ViTModel
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"--model stable-worldmodel needs the package {error.name}: pip install stable-worldmodel transformers, or "
            "use --model lewm, which is the same network"
        ) from error
    latent = sizes.latent
    predictor = Predictor(
        num_frames=sizes.history,
        input_dim=latent,
        hidden_dim=latent,
        output_dim=latent,
        depth=sizes.predictor_depth,
        heads=sizes.predictor_heads,
        dim_head=sizes.head_width,
        mlp_dim=sizes.predictor_hidden,
        dropout=sizes.dropout,
    )
    # What its configuration makes by stable_pretraining's `vit_hf`, which is a package more.
    vit = ViTConfig(
        hidden_size=sizes.width,
        num_hidden_layers=sizes.depth,
        num_attention_heads=sizes.heads,
        intermediate_size=4 * sizes.width,
        image_size=sizes.side,
        patch_size=sizes.patch,
    )
    encoder = ViTModel(vit, add_pooling_layer=False, use_mask_token=False)
    head = partial(MLP, hidden_dim=sizes.hidden, output_dim=latent, norm_fn=nn.BatchNorm1d)
    made: nn.Module = LeWM(
        encoder, predictor, Embedder(action_width, emb_dim=latent), head(input_dim=sizes.width), head(input_dim=latent)
    )
    return made
