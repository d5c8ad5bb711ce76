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


def save_grounding_dino(folder: Path, *, seed: int = 0) -> Path:
    """A Grounding DINO (0.5 M parameters) with a word-piece tokenizer of letters and digits."""
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    config = GroundingDinoConfig(
        backbone_config={
            "model_type": "swin",
            "embed_dim": 16,
            "depths": [1, 1, 1, 1],
            "num_heads": [1, 2, 2, 4],
            "window_size": 4,
            "out_indices": [2, 3, 4],
        },
        text_config={
            "model_type": "bert",
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "vocab_size": 1030,
            "max_position_embeddings": 64,
        },
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,  # with one there is nothing to tie the box heads to
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
        max_text_len=64,
    )
    torch.manual_seed(seed)
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    save_bert_tokenizer(folder)
    size = {"shortest_edge": 96, "longest_edge": 160}
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": size}))
    return folder


def save_bert_tokenizer(folder: Path) -> None:
    """BERT's tokenizer with its special tokens in their places, and letters and digits as the only pieces."""
    from transformers import BertTokenizerFast

    words = [f"[unused{index}]" for index in range(1030)]
    for index, word in {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}.items():
        words[index] = word
    words[1012], words[1029] = ".", "?"
    signs = "abcdefghijklmnopqrstuvwxyz0123456789"
    words[200 : 200 + len(signs)] = list(signs)
    words[300 : 300 + len(signs)] = [f"##{sign}" for sign in signs]
    BertTokenizerFast(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)


def save_sam(folder: Path, *, seed: int = 0) -> Path:
    """A Segment Anything model (0.09 M parameters, 64 px)."""
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config={
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "mlp_dim": 64,
            "image_size": 64,
            "patch_size": 16,
            "window_size": 2,
            "global_attn_indexes": [1],
            "num_pos_feats": 16,  # half of the width
            "output_channels": 32,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 64,
            "image_embedding_size": 4,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
    )
    torch.manual_seed(seed)
    SamModel(config).save_pretrained(folder)
    return folder
