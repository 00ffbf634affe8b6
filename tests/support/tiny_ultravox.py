"""Random tiny Ultravox checkpoints that are spelt like the published one, for tests."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tiny_checkpoints import (
    LLAMA_VOCABULARY,
    LLAVA_TEMPLATE,
    llama_tokenizer,
    make_llama,
    write_json,
    write_tokenizer,
    write_weights,
)

from sensorium_media_audio.manifests import load_manifest

MANIFEST = "ultravox_v0_5_llama_3_2_1b"
SIZES = {
    "hidden": 64,
    "projector": 48,
    "gated": 24,
    "stacked": 256,
    "tower": 32,
    "tower_mlp": 48,
    "tower_layers": 2,
    "tower_positions": 1500,
    "mel": 128,
}


def make_ultravox(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, head_size: int = 16
) -> Path:
    """An Ultravox with a tower of 2 layers; its text model, a Llama, lies in ``folder/text``.

    Args:
        head_size: of the tower's two heads; the extension's CUDA kernels serve 64.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = make_llama(folder / "text", seed, dtype)
    manifest = load_manifest(MANIFEST)
    config = copy.deepcopy(dict(manifest.config))
    config["audio_config"] |= {
        "d_model": 2 * head_size,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 48,
        "encoder_layers": 2,
        "num_hidden_layers": 2,
    }
    config |= {
        "hidden_size": 48,
        "text_model_id": str(text),
        "vocab_size": LLAMA_VOCABULARY,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
    sizes = SIZES | {"tower": 2 * head_size, "stacked": 16 * head_size}
    write_weights(folder, manifest.shapes(sizes), seed + 1, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", manifest.preprocessor_config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    template = LLAVA_TEMPLATE.replace("<image>\n", "")
    write_tokenizer(folder, llama_tokenizer(), template, bos="<s>", eos="</s>", unk="<unk>")
    return folder
