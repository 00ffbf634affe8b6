"""Writes random tiny LLaVA-OneVision checkpoints, spelt like the published one, for tests."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tiny_checkpoints import (
    DECODER_CONFIG,
    DECODER_SIZES,
    QWEN_IDS,
    QWEN_VOCABULARY,
    WIDER,
    WIDER_TOWER,
    qwen_tokenizer,
    write_json,
    write_tokenizer,
    write_weights,
)
from tokenizers import AddedToken

from sensorium_media_image.families.onevision import TEMPLATE
from sensorium_media_image.manifests import load_manifest

#: Pixels along a tile, of which a patch of 14 takes three and leaves three over, as 384 leaves six.
TILE = 45
ONEVISION_IDS = {"<image>": 308, "<video>": 309}


def make_onevision(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, wide: bool = False
) -> Path:
    """9 rows a tile of 45×45 pixels, up to 6×6 tiles, 4 rows a frame, a tower of 3 layers."""
    wider, times = (WIDER, WIDER_TOWER) if wide else (1, 1)
    manifest = load_manifest("llava_onevision_7b")
    config = copy.deepcopy(dict(manifest.config))
    pinpoints = [[45 * rows, 45 * columns] for rows in range(1, 7) for columns in range(1, 7)]
    config["text_config"] |= DECODER_CONFIG | {
        "hidden_size": 64 * wider,
        "intermediate_size": 96 * wider,
        "vocab_size": QWEN_VOCABULARY,
        "max_position_embeddings": 65_536,
        "bos_token_id": QWEN_IDS["<|endoftext|>"],
        "eos_token_id": QWEN_IDS["<|im_end|>"],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    config["vision_config"] |= {
        "hidden_size": 32 * times,
        "intermediate_size": 48 * times,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "image_size": TILE,
    }
    config |= {
        "image_grid_pinpoints": pinpoints,
        "image_token_index": ONEVISION_IDS["<image>"],
        "video_token_index": ONEVISION_IDS["<video>"],
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    widths = {name: DECODER_SIZES[name] * wider for name in ("hidden", "mlp", "query", "key")}
    sizes = DECODER_SIZES | widths
    sizes |= {"vocabulary": QWEN_VOCABULARY, "tower": 32 * times, "tower_mlp": 48 * times}
    sizes |= {"tower_layers": 3, "tower_positions": 9, "patch": 14}
    processor = dict(manifest.preprocessor_config)
    processor |= {"image_grid_pinpoints": pinpoints, "size": {"height": TILE, "width": TILE}}
    write_weights(folder, manifest.shapes(sizes), seed, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)
    write_json(
        folder / "processor_config.json", dict(manifest.processor_config) | {"num_image_tokens": 9}
    )
    ends = {"eos_token_id": QWEN_IDS["<|im_end|>"], "pad_token_id": QWEN_IDS["<|endoftext|>"]}
    write_json(folder / "generation_config.json", ends)
    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ONEVISION_IDS]
    )
    assert all(tokenizer.token_to_id(token) == i for token, i in ONEVISION_IDS.items())
    write_tokenizer(folder, tokenizer, TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    return folder
