"""The folder that a checkpoint is: configuration in the published spelling, and the small files.

transformers 5 would write a nested text configuration; published Qwen2.5-VL checkpoints have it
flat, and that is what readers of checkpoints must cope with, so that is what tiny-vl ships.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]

# Pictures are brought between these two areas: training saw nothing smaller or larger.
MIN_PIXELS, MAX_PIXELS = 112 * 112, 224 * 224
# Frames of clips likewise.
MAX_FRAME_PIXELS = 168 * 168


def config(tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json: about 7.3 million parameters."""
    ids = {name: tokenizer.token_to_id(f"<|{name}|>") for name in (
        "endoftext", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad",
    )}  # fmt: skip
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "hidden_act": "silu",
        "hidden_size": 256,
        "image_token_id": ids["image_pad"],
        "initializer_range": 0.02,
        "intermediate_size": 512,
        "max_position_embeddings": 4096,
        "max_window_layers": 6,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": 4,
        "num_hidden_layers": 6,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_section": [8, 12, 12], "type": "mrope"},
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "video_token_id": ids["video_pad"],
        "vision_config": {
            "depth": 6,
            "fullatt_block_indexes": [1, 3, 5],
            "hidden_act": "silu",
            "hidden_size": 192,
            "in_channels": 3,
            "in_chans": 3,
            "intermediate_size": 480,
            "model_type": "qwen2_5_vl",
            "num_heads": 6,
            "out_hidden_size": 256,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 112,
        },
        "vision_end_token_id": ids["vision_end"],
        "vision_start_token_id": ids["vision_start"],
        "vision_token_id": ids["vision_pad"],
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: greedy, ending with the turn."""
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return {
        "bos_token_id": pad,
        "do_sample": False,
        "eos_token_id": [end, pad],
        "max_new_tokens": 48,
        "pad_token_id": pad,
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json, as published for the family but for the two areas."""
    return {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": CLIP_MEAN,
        "image_processor_type": "Qwen2VLImageProcessor",
        "image_std": CLIP_STD,
        "max_pixels": MAX_PIXELS,
        "merge_size": 2,
        "min_pixels": MIN_PIXELS,
        "patch_size": 14,
        "processor_class": "Qwen2_5_VLProcessor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "temporal_patch_size": 2,
    }


def processor_config() -> dict[str, Any]:
    """processor_config.json: how a clip's frames are processed, which is like pictures but smaller.

    Pictures stay in preprocessor_config.json, where every release of transformers finds them.
    """
    frames = {
        key: value
        for key, value in preprocessor_config().items()
        if key not in ("image_processor_type", "processor_class")
    }
    frames |= {"max_pixels": MAX_FRAME_PIXELS, "video_processor_type": "Qwen2VLVideoProcessor"}
    return {"processor_class": "Qwen2_5_VLProcessor", "video_processor": frames}


def write(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the configuration files."""
    for name, content in (
        ("config.json", config(tokenizer)),
        ("generation_config.json", generation_config(tokenizer)),
        ("preprocessor_config.json", preprocessor_config()),
        ("processor_config.json", processor_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
