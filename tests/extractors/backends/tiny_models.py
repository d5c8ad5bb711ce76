"""Tiny models with random weights, built from the library's real configuration classes and saved to a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch


def save_sam3(folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """A SAM 3 video model (4.4 M parameters, 56 px) that finds objects in anything, with a tokenizer of bytes."""
    from transformers import Sam3VideoConfig, Sam3VideoModel

    low = {"score_threshold_detection": 0.2, "new_det_thresh": 0.2, "hotstart_delay": 0, "det_nms_thresh": 0.5}
    config = Sam3VideoConfig(
        **_sam3_parts(), **{"low_res_mask_size": 16, "max_num_objects": 8, "fill_hole_area": 2, **low, **settings}
    )
    torch.manual_seed(seed)
    Sam3VideoModel(config).save_pretrained(folder)
    save_clip_tokenizer(folder)
    return folder


def _sam3_parts() -> dict[str, Any]:
    vision = {
        "model_type": "sam3_vision_model",
        "backbone_config": {
            "model_type": "sam3_vit_model",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 56,
            "patch_size": 14,
            "window_size": 2,
            "global_attn_indexes": [1],
            "pretrain_image_size": 28,
        },
        "fpn_hidden_size": 128,
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
    }
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"vocab_size": 514, "max_position_embeddings": 32, "projection_dim": 32}
    text |= {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    layer = {"hidden_size": 128, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": layer,
        "detr_encoder_config": layer,
        "detr_decoder_config": {**layer, "num_queries": 10},
        "mask_decoder_config": {"hidden_size": 128, "num_attention_heads": 2},
    }
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "image_size": 56,
        "prompt_encoder_config": {"hidden_size": 128, "image_size": 56, "patch_size": 14},
        "mask_decoder_config": {"hidden_size": 128, "mlp_dim": 64, "num_attention_heads": 2, "iou_head_hidden_dim": 64},
        "memory_attention_hidden_size": 128,
        "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_feed_forward_hidden_size": 64,
        "memory_attention_rope_feat_sizes": [4, 4],
        "memory_encoder_hidden_size": 128,
        "memory_encoder_output_channels": 64,
        "mask_downsampler_embed_dim": 128,
        "memory_fuser_embed_dim": 128,
        "memory_fuser_intermediate_dim": 64,
        "memory_fuser_num_layers": 1,
    }
    return {"detector_config": detector, "tracker_config": tracker}


def save_clip_tokenizer(folder: Path) -> None:
    """CLIP's byte-pair tokenizer without merges: one token a byte."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    symbols = list(bytes_to_unicode().values())
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: index for index, word in enumerate(words)}
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)


def drop_weights(folder: Path, *, containing: str) -> None:
    """Takes the weights whose name has `containing` in it out of a saved model."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    state = {name: value for name, value in load_file(file).items() if containing not in name}
    save_file(state, file, metadata={"format": "pt"})


def set_config(folder: Path, **changes: Any) -> None:
    """Changes values of a saved model's config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
