"""World models in files: ours, and the official LeWorldModel checkpoints, whose tensors have other names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from extractors.errors import WeightsError
from flows.study.world_model import SIZES, WorldModel, WorldModelSizes

_ENCODER = r"encoder\.(?:encoder\.layer|layers|layer)\.(\d+)\."
_BLOCK = r"predictor\.transformer\.layers\.(\d+)\."

OFFICIAL_NAMES: tuple[tuple[str, str], ...] = (
    (r"encoder\.embeddings\.cls_token", "encoder.cls"),
    (r"encoder\.embeddings\.position_embeddings", "encoder.place"),
    (r"encoder\.embeddings\.patch_embeddings\.projection\.(\w+)", r"encoder.embed.\1"),
    (_ENCODER + r"layernorm_before\.(\w+)", r"encoder.blocks.\1.first.\2"),
    (_ENCODER + r"layernorm_after\.(\w+)", r"encoder.blocks.\1.second.\2"),
    (_ENCODER + r"attention\.(?:attention\.)?(?:q_proj|query)\.(\w+)", r"encoder.blocks.\1.qkv.\2:0"),
    (_ENCODER + r"attention\.(?:attention\.)?(?:k_proj|key)\.(\w+)", r"encoder.blocks.\1.qkv.\2:1"),
    (_ENCODER + r"attention\.(?:attention\.)?(?:v_proj|value)\.(\w+)", r"encoder.blocks.\1.qkv.\2:2"),
    (_ENCODER + r"attention\.(?:o_proj|output\.dense)\.(\w+)", r"encoder.blocks.\1.out.\2"),
    (_ENCODER + r"(?:mlp\.fc1|intermediate\.dense)\.(\w+)", r"encoder.blocks.\1.grow.\2"),
    (_ENCODER + r"(?:mlp\.fc2|output\.dense)\.(\w+)", r"encoder.blocks.\1.shrink.\2"),
    (r"encoder\.layernorm\.(\w+)", r"encoder.norm.\1"),
    (r"projector\.net\.(.+)", r"projector.\1"),
    (r"pred_proj\.net\.(.+)", r"predicted_projector.\1"),
    (r"action_encoder\.patch_embed\.(\w+)", r"action_encoder.smooth.\1"),
    (r"action_encoder\.embed\.(.+)", r"action_encoder.layers.\1"),
    (r"predictor\.pos_embedding", "predictor.when"),
    (r"predictor\.transformer\.norm\.(\w+)", r"predictor.norm.\1"),
    (_BLOCK + r"attn\.norm\.(\w+)", r"predictor.blocks.\1.attention_norm.\2"),
    (_BLOCK + r"attn\.to_qkv\.(\w+)", r"predictor.blocks.\1.qkv.\2"),
    (_BLOCK + r"attn\.to_out\.0\.(\w+)", r"predictor.blocks.\1.out.\2"),
    (_BLOCK + r"mlp\.net\.0\.(\w+)", r"predictor.blocks.\1.feed_norm.\2"),
    (_BLOCK + r"mlp\.net\.1\.(\w+)", r"predictor.blocks.\1.grow.\2"),
    (_BLOCK + r"mlp\.net\.4\.(\w+)", r"predictor.blocks.\1.shrink.\2"),
    (_BLOCK + r"adaLN_modulation\.1\.(\w+)", r"predictor.blocks.\1.modulate.\2"),
)
"""Names of stable-worldmodel's LeWM, with either naming of Hugging Face's ViT, and ours; `:n` is the n-th third."""


def from_official(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of an official LeWM checkpoint under our names.

    Raises:
        WeightsError: a tensor is not one of LeWM's.
    """
    found: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        renamed = _renamed(name.removeprefix("model."))
        if renamed is None:
            raise WeightsError(f"the checkpoint holds {name}, which is not a tensor of LeWorldModel")
        if ":" in renamed:
            whole, _, third = renamed.partition(":")
            thirds.setdefault(whole, {})[int(third)] = tensor
        else:
            # Its embedding of actions is a convolution over time one step wide: a linear layer.
            found[renamed] = tensor.squeeze(-1) if renamed == "action_encoder.smooth.weight" else tensor
    for whole, parts in thirds.items():
        if len(parts) < 3:
            raise WeightsError(f"the checkpoint lacks part of {whole}: query, key and value belong together")
        found[whole] = torch.cat([parts[third] for third in range(3)])
    return found


def load_world_model(path: Path, tokens: str = "cls") -> WorldModel:
    """A world model from a local folder or file: one of ours, or an official LeWM checkpoint.

    Args:
        path: a .safetensors, .pt or .ckpt file, or a folder that holds one.
        tokens: "cls", or "patches" where it was trained so.

    Raises:
        WeightsError: there is none, it cannot be read, or its tensors have other names or sizes.
    """
    tensors = _read(_file(path))
    if any(name.startswith(("predictor.transformer", "model.predictor.transformer")) for name in tensors):
        tensors = from_official(tensors)
    try:
        sizes = _sizes_of(tensors)
        width = tensors["action_encoder.smooth.weight"].shape[1]
    except KeyError as error:
        raise WeightsError(f"{path}: the checkpoint lacks {error}, so it is not one of LeWorldModel") from error
    model = WorldModel(sizes, width, "patches" if tokens == "patches" else "cls")
    own = model.state_dict()
    if missing := sorted(own.keys() - tensors.keys()):
        raise WeightsError(f"{path}: the checkpoint lacks {missing[0]} and {len(missing) - 1} more tensors")
    for name, tensor in tensors.items():
        if name in own and own[name].shape != tensor.shape:
            raise WeightsError(f"{path}: {name} is {tuple(tensor.shape)}, wanted {tuple(own[name].shape)}")
    model.load_state_dict({name: tensor for name, tensor in tensors.items() if name in own})
    return model.eval()


def _sizes_of(tensors: Mapping[str, Tensor]) -> WorldModelSizes:
    """The published sizes or `tiny`'s, with what the tensors say themselves."""
    embed, place = tensors["encoder.embed.weight"], tensors["encoder.place"]
    width, patch = embed.shape[0], embed.shape[-1]
    published = SIZES["tiny"] if width == SIZES["tiny"].width else SIZES["lewm"]
    side = patch * round((place.shape[1] - 1) ** 0.5)
    inner = tensors["predictor.blocks.0.qkv.weight"].shape[0] // 3
    return replace(
        published,
        side=side,
        patch=patch,
        width=width,
        # Nothing tells heads of an encoder apart; all of the ViTs in use have 64 numbers a head, `tiny` has 32.
        heads=width // (32 if published is SIZES["tiny"] else 64),
        depth=_count(tensors, "encoder.blocks."),
        latent=tensors["predictor.norm.weight"].shape[0],
        hidden=tensors["projector.0.weight"].shape[0],
        predictor_depth=_count(tensors, "predictor.blocks."),
        predictor_heads=inner // published.head_width,
        predictor_hidden=tensors["predictor.blocks.0.grow.weight"].shape[0],
        history=tensors["predictor.when"].shape[1],
    )


def _count(tensors: Mapping[str, Tensor], prefix: str) -> int:
    return len({name.removeprefix(prefix).split(".")[0] for name in tensors if name.startswith(prefix)})


def _renamed(name: str) -> str | None:
    for pattern, renamed in OFFICIAL_NAMES:
        if (match := re.fullmatch(pattern, name)) is not None:
            return match.expand(renamed)
    return name if name.endswith("num_batches_tracked") else None


def _file(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(each for ending in ("safetensors", "pt", "ckpt") for each in path.glob(f"*.{ending}"))
    if len(found) != 1:
        raise WeightsError(f"wanted a checkpoint (.safetensors, .pt, .ckpt) at {path}, found {len(found)}")
    return found[0]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Only tensors: a checkpoint that is a pickled object could run code.
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, pickle and safetensors have a dozen kinds for a damaged file
        raise WeightsError(
            f"{path} cannot be read as tensors: {error}; save the model's state_dict, not the model"
        ) from error
    tensors = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    if not tensors or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise WeightsError(f"{path} holds no table of tensors; save the model's state_dict")
    return dict(tensors)
