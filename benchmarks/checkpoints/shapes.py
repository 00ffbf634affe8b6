"""Model folders of published shapes without weights, for ``load_format="dummy"``.

Configs come from the committed manifests. The tokenizer is made here: a token a byte, words that
only decode, and the special tokens under their own ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sensorium.models.manifests import Manifest
from sensorium_media_audio.manifests import load_manifest as load_audio_manifest
from sensorium_media_image.manifests import load_manifest

FOLDER = Path(__file__).resolve().parent.parent / "results" / "shapes"
SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"),
    *("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
#: The id of the first of ``SPECIALS``.
FIRST_SPECIAL = 151643
#: An item of a prompt: start, pad, end.
IMAGE_IDS = [FIRST_SPECIAL + i for i in (9, 12, 10)]
VIDEO_IDS = [FIRST_SPECIAL + i for i in (9, 13, 10)]

#: What a tiny model of the same kind has otherwise; for a machine without a GPU.
TINY = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
TINY_TOWER = {
    "depth": 2,
    "hidden_size": 160,
    "intermediate_size": 320,
    "num_heads": 2,
    "out_hidden_size": 256,
    "fullatt_block_indexes": [1],
}
#: What only a model that sees pictures has.
_OF_PICTURES = ("vision_config", "rope_scaling")

#: Shapes of other families → their manifest, and the special tokens that lie behind the id of the
#: first of them.
OTHERS: Mapping[str, tuple[str, int, tuple[str, ...]]] = {
    "phi35v-4b": ("phi_3_5_vision", 32044, ("<|image|>",)),
    "minicpmv26-8b": (
        "minicpm_v_2_6",
        FIRST_SPECIAL,
        (
            *SPECIALS,
            "<unk>",
            *("<image>", "</image>", "<slice>", "</slice>"),
            "<image_id>",
            "</image_id>",
        ),
    ),
}
#: Llama-3.2-1B-Instruct, the text model of Ultravox's 1B: its published ``config.json`` as far as
#: results depend on it, and the id of its first special token.
LLAMA_1B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": True,
    "vocab_size": 128256,
}
LLAMA_FIRST_SPECIAL = 128000
LLAMA_SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>")
#: Ultravox: its tower, and what a tiny one has otherwise.
TINY_WHISPER = {
    "d_model": 128,
    "encoder_attention_heads": 2,
    "encoder_ffn_dim": 256,
    "encoder_layers": 2,
    "num_hidden_layers": 2,
}
HEARING = ("ultravox-1b", "tiny-ultravox")
SHAPES = ("qwen25vl-3b", "qwen25-3b", "tiny", "tiny-text", *OTHERS, *HEARING)


def spellings(config: Mapping[str, Any]) -> dict[str, list[int] | str]:
    """Kind → an item in a prompt of the model: token ids, or text where none stand for it."""
    if "img_processor" in config:
        return {"image": [32044]}
    if config.get("model_type") == "minicpmv":
        return {"image": "(<image>./</image>)"}
    if config.get("model_type") == "ultravox":
        return {"audio": "<|audio|>"}
    return {"image": IMAGE_IDS, "video": VIDEO_IDS} if "vision_config" in config else {}


def shape(name: str) -> Path:
    """The folder of one of ``SHAPES``, made now if it isn't there."""
    folder = FOLDER / name
    if not (folder / "config.json").exists():
        _write(folder, name)
    return folder


def _write(folder: Path, name: str) -> None:
    if name in HEARING:
        manifest = load_audio_manifest("ultravox_v0_5_llama_3_2_1b")
        is_tiny = name.startswith("tiny")
        text = LLAMA_1B | (TINY | {"head_dim": 128} if is_tiny else {})
        config = dict(manifest.config) | {"text_model_id": None, "text_config": text}
        if is_tiny:
            config["audio_config"] = dict(config["audio_config"]) | TINY_WHISPER
        _write_files(folder, config, manifest, LLAMA_FIRST_SPECIAL, LLAMA_SPECIALS)
        return
    default = ("qwen2_5_vl_3b", FIRST_SPECIAL, SPECIALS)
    manifest_name, first_special, specials = OTHERS.get(name, default)
    manifest = load_manifest(manifest_name)
    config = dict(manifest.config)
    if name.startswith("tiny"):
        config |= TINY
        config["vision_config"] = dict(config["vision_config"]) | TINY_TOWER
    if name in ("qwen25-3b", "tiny-text"):
        config = {key: value for key, value in config.items() if key not in _OF_PICTURES}
        config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    _write_files(folder, config, manifest, first_special, specials)


def _write_files(
    folder: Path,
    config: Mapping[str, Any],
    manifest: Manifest,
    first_special: int,
    specials: Sequence[str],
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _tokenizer(first_special, specials).save(str(folder / "tokenizer.json"))
    _json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    _json(folder / "preprocessor_config.json", manifest.preprocessor_config)
    _json(folder / "generation_config.json", {"eos_token_id": first_special})
    _json(folder / "config.json", config)


def _tokenizer(first_special: int, specials: Sequence[str]) -> Tokenizer:
    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces += [f"Ġx{i}" for i in range(len(pieces), first_special)]
    tokenizer = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def _json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n")
