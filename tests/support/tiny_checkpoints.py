"""Writes random tiny checkpoints that are spelt like the published ones, for tests.

A folder holds what a hub's snapshot would: ``config.json``, ``generation_config.json``,
``preprocessor_config.json``, a tokenizer with its chat template, and one safetensors file.
Names and configs come from the manifests; only the sizes are small. Making one takes well
under a second and needs no transformers.

A ``wide`` one has heads of 64 in its decoder and of 80 in its tower, which CUDA's kernels take.

Weights are drawn so that activations keep their size from layer to layer: logits then differ
clearly from one another, and a difference between two implementations shows.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post_processors

from sensorium_media_image.manifests import load_manifest

DECODER_SIZES = {"hidden": 64, "mlp": 96, "layers": 3, "query": 64, "key": 32}
DECODER_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
#: By which a wide checkpoint's decoder and tower are wider: 16 · 4 = 64 and 16 · 5 = 80 a head.
WIDER, WIDER_TOWER = 4, 5
#: Ids the Llama-like tokenizer knows are fewer than the model's, as in LLaVA-1.5.
LLAMA_VOCABULARY = 384
LLAVA_IMAGE_ID = 380
LLAVA_PAD_ID = 381
QWEN_VOCABULARY = 320
QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
#: Ids of ``QWEN_SPECIALS``, right behind the 256 bytes and the merges.
QWEN_IDS = {token: 300 + i for i, token in enumerate(QWEN_SPECIALS)}

#: What MiniCPM-V's vocabulary has behind Qwen2's.
MINICPMV_SPECIALS = (
    "<unk>",
    "<image>",
    "</image>",
    "<slice>",
    "</slice>",
    "<image_id>",
    "</image_id>",
)
#: What Phi-3.5-vision's vocabulary has behind Llama's, here without the many that are unused.
PHI3V_SPECIALS = (
    "<|endoftext|>",
    "<|assistant|>",
    "<|system|>",
    "<|end|>",
    "<|user|>",
    "<|image|>",
)
PHI3V_VOCABULARY = 392
PHI3V_IDS = {token: LLAVA_IMAGE_ID + i for i, token in enumerate(PHI3V_SPECIALS)}

LLAVA_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}: "
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %} "
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

MINICPMV_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PHI3V_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
    "{{ '<|assistant|>\n' }}{% endif %}"
)


def make_llava(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, wide: bool = False
) -> Path:
    """A LLaVA-1.5: 16 tokens an item of 56×56 pixels, a tower of 3 layers of which 2 count."""
    wider, times = (WIDER, WIDER_TOWER) if wide else (1, 1)
    widths, decoder_sizes = _decoder(wider)
    manifest = load_manifest("llava_1_5_7b")
    config = copy.deepcopy(dict(manifest.config))
    config["text_config"] |= {**widths, "vocab_size": LLAMA_VOCABULARY}
    config["text_config"]["torch_dtype"] = _name(dtype)
    config["vision_config"] |= {
        "hidden_size": 32 * times,
        "intermediate_size": 48 * times,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "image_size": 56,
        "projection_dim": 32,
    }
    config |= {
        "image_token_index": LLAVA_IMAGE_ID,
        "pad_token_id": LLAVA_PAD_ID,
        "vocab_size": LLAMA_VOCABULARY,
        "image_seq_length": 16,
        "torch_dtype": _name(dtype),
    }
    sizes = decoder_sizes | {
        "vocabulary": LLAMA_VOCABULARY,
        "tower": 32 * times,
        "tower_mlp": 48 * times,
        "tower_layers": 3,
        "tower_positions": 17,
        "patch": 14,
    }
    processor = dict(manifest.preprocessor_config)
    processor["size"] = {"shortest_edge": 56}
    processor["crop_size"] = {"height": 56, "width": 56}
    write_weights(folder, manifest.shapes(sizes), seed, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)
    write_json(folder / "processor_config.json", manifest.processor_config)
    write_json(
        folder / "generation_config.json",
        dict(manifest.generation_config) | {"pad_token_id": LLAVA_PAD_ID},
    )
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    tokenizer.add_special_tokens([AddedToken("<pad>", special=True, normalized=False)])
    assert tokenizer.token_to_id("<image>") == LLAVA_IMAGE_ID
    write_tokenizer(
        folder, tokenizer, LLAVA_TEMPLATE, bos="<s>", eos="</s>", pad="<pad>", unk="<unk>"
    )
    return folder


def make_qwen25vl(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, wide: bool = False
) -> Path:
    """A Qwen2.5-VL: windows of 4×4 merged patches, a tower whose middle layer of 3 is full."""
    wider, times = (WIDER, WIDER_TOWER) if wide else (1, 1)
    tower = {
        "depth": 3,
        "hidden_size": 32 * times,
        "intermediate_size": 48 * times,
        "num_heads": 2,
        "out_hidden_size": 64 * wider,
        "fullatt_block_indexes": [1],
    }
    mlp = {"tower_mlp": 48 * times}
    return _make_qwen_vl("qwen2_5_vl_3b", tower, mlp, folder, seed, dtype, wider, times)


def make_qwen2vl(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, wide: bool = False
) -> Path:
    """A Qwen2-VL with a tower of 3 layers."""
    wider, times = (WIDER, WIDER_TOWER) if wide else (1, 1)
    tower = {
        "depth": 3,
        "embed_dim": 32 * times,
        "num_heads": 2,
        "mlp_ratio": 2,
        "hidden_size": 64 * wider,
    }
    mlp = {"tower_mlp": 64 * times}
    return _make_qwen_vl("qwen2_vl_2b", tower, mlp, folder, seed, dtype, wider, times)


def _make_qwen_vl(
    name: str,
    tower: Mapping[str, Any],
    tower_sizes: Mapping[str, int],
    folder: Path,
    seed: int,
    dtype: torch.dtype,
    wider: int,
    times: int,
) -> Path:
    widths, decoder_sizes = _decoder(wider)
    manifest = load_manifest(name)
    config = copy.deepcopy(dict(manifest.config))
    config |= {
        **widths,
        **_qwen_ids(),
        "vocab_size": QWEN_VOCABULARY,
        "max_position_embeddings": 65_536,
        "torch_dtype": _name(dtype),
        "rope_scaling": {"type": "mrope", "mrope_section": [n * wider for n in (2, 3, 3)]},
    }
    config["vision_config"] |= tower
    sizes = decoder_sizes | {
        "vocabulary": QWEN_VOCABULARY,
        "tower": 32 * times,
        "tower_qkv": 96 * times,
        "tower_layers": 3,
        "merged": 128 * times,
        "temporal": 2,
        "patch": 14,
        **tower_sizes,
    }
    processor = dict(manifest.preprocessor_config) | {"max_pixels": 128 * 28 * 28}
    write_weights(folder, manifest.shapes(sizes), seed, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)
    write_json(folder / "generation_config.json", _qwen_generation())
    write_tokenizer(folder, qwen_tokenizer(), QWEN_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    return folder


def make_phi3v(
    folder: Path,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    wide: bool = False,
    original_len: int = 4096,
) -> Path:
    """A Phi-3.5-vision: tiles of 56×56 pixels of 4 rows each, a tower of 3 layers of which 2 count.

    Args:
        original_len: beyond which LongRoPE's second set of factors holds.
    """
    wider, times = (WIDER, WIDER_TOWER) if wide else (1, 1)
    widths, decoder_sizes = _decoder(wider)
    manifest = load_manifest("phi_3_5_vision")
    config = copy.deepcopy(dict(manifest.config))
    config |= widths | {
        "vocab_size": PHI3V_VOCABULARY,
        "pad_token_id": PHI3V_IDS["<|endoftext|>"],
        "max_position_embeddings": 65_536,
        "original_max_position_embeddings": original_len,
        "torch_dtype": _name(dtype),
    }
    num_pairs = config["hidden_size"] // config["num_attention_heads"] // 2
    for name in ("long_factor", "short_factor"):
        factors = config["rope_scaling"][name]
        config["rope_scaling"][name] = factors[:: len(factors) // num_pairs][:num_pairs]
    config["img_processor"] |= {
        "image_dim_out": 32 * times,
        "intermediate_size": 48 * times,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 56,
        "num_img_tokens": 4,
    }
    sizes = decoder_sizes | {
        "gate_up": 2 * decoder_sizes["mlp"],
        "qkv": decoder_sizes["query"] + 2 * decoder_sizes["key"],
        "vocabulary": PHI3V_VOCABULARY,
        "tower": 32 * times,
        "tower_mlp": 48 * times,
        "tower_layers": 3,
        "tower_positions": 17,
        "patch": 14,
        "merged": 128 * times,
    }
    write_weights(folder, manifest.shapes(sizes), seed, dtype)
    write_json(folder / "config.json", config)
    processor = dict(manifest.preprocessor_config) | {"num_img_tokens": 4}
    write_json(folder / "preprocessor_config.json", processor)
    tokenizer = llama_tokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in PHI3V_SPECIALS]
    )
    assert all(tokenizer.token_to_id(token) == i for token, i in PHI3V_IDS.items())
    write_tokenizer(
        folder,
        tokenizer,
        PHI3V_TEMPLATE,
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        unk="<unk>",
    )
    return folder


def make_minicpmv(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, wide: bool = False
) -> Path:
    """A MiniCPM-V-2.6: 4 rows a view of about 56×56 pixels, up to 4 slices."""
    wider, times = (WIDER, WIDER_TOWER) if wide else (2, 1)  # the resampler's heads have 128
    widths, decoder_sizes = _decoder(wider)
    manifest = load_manifest("minicpm_v_2_6")
    config = copy.deepcopy(dict(manifest.config))
    config |= widths | {
        "vocab_size": QWEN_VOCABULARY,
        "bos_token_id": QWEN_IDS["<|endoftext|>"],
        "eos_token_id": QWEN_IDS["<|im_end|>"],
        "max_position_embeddings": 65_536,
        "query_num": 4,
        "torch_dtype": _name(dtype),
    }
    config["vision_config"] |= {
        "hidden_size": 32 * times,
        "intermediate_size": 48 * times,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
    }
    sizes = decoder_sizes | {
        "vocabulary": QWEN_VOCABULARY,
        "tower": 32 * times,
        "tower_mlp": 48 * times,
        "tower_layers": 3,
        "tower_positions": 4900,
        "patch": 14,
        "queries": 4,
        "in_proj": 3 * decoder_sizes["hidden"],
    }
    slicing = {"scale_resolution": 56, "max_slice_nums": 4}
    processor = dict(manifest.preprocessor_config) | slicing | {"image_feature_size": 4}
    config["slice_config"] |= slicing
    write_weights(folder, manifest.shapes(sizes), seed, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "preprocessor_config.json", processor)
    write_json(folder / "generation_config.json", _qwen_generation())
    tokenizer = qwen_tokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in MINICPMV_SPECIALS]
    )
    write_tokenizer(
        folder,
        tokenizer,
        MINICPMV_TEMPLATE,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        unk="<unk>",
    )
    return folder


def make_llama(
    folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32, *, wide: bool = False
) -> Path:
    """A Llama, untied, for text alone."""
    widths, sizes = _decoder(WIDER if wide else 1)
    shapes = {
        name.removeprefix("language_model."): shape
        for name, shape in load_manifest("llava_1_5_7b").shapes(_text_sizes(sizes, 384)).items()
        if name.startswith("language_model.")
    }
    config = widths | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": LLAMA_VOCABULARY,
        "hidden_act": "silu",
        "max_position_embeddings": 65_536,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": _name(dtype),
    }
    write_weights(folder, shapes, seed, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    template = LLAVA_TEMPLATE.replace("<image>\n", "")
    write_tokenizer(folder, llama_tokenizer(), template, bos="<s>", eos="</s>", unk="<unk>")
    return folder


def make_qwen2(folder: Path, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A Qwen2, tied, for text alone."""
    sizes = _text_sizes(DECODER_SIZES, 320)
    shapes = {
        name: shape
        for name, shape in load_manifest("qwen2_5_vl_3b").shapes(sizes).items()
        if name.startswith("model.")
    }
    config = DECODER_CONFIG | {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "vocab_size": QWEN_VOCABULARY,
        "hidden_act": "silu",
        "max_position_embeddings": 65_536,
        "max_window_layers": 3,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": QWEN_IDS["<|endoftext|>"],
        "eos_token_id": QWEN_IDS["<|im_end|>"],
        "torch_dtype": _name(dtype),
    }
    write_weights(folder, shapes, seed, dtype)
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", _qwen_generation())
    write_tokenizer(folder, qwen_tokenizer(), QWEN_TEMPLATE, eos="<|im_end|>", pad="<|endoftext|>")
    return folder


def llama_tokenizer() -> Tokenizer:
    """Characters and, for what isn't among them, bytes: Llama's scheme without its merges."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    words += [chr(code) for code in range(33, 127)]
    words += [f"<extra_{i}>" for i in range(LLAVA_IMAGE_ID - len(words))]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.post_processor = post_processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    return tokenizer


def qwen_tokenizer() -> Tokenizer:
    """Byte-level BPE with a few merges, and the family's special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    merges = []
    for word in ("th", "in", "er", "an", "on", "at", "ing", "and", "the", "Ġa", "Ġt", "Ġthe"):
        left = next(word[:k] for k in range(len(word) - 1, 0, -1) if word[:k] in vocabulary)
        if word[len(left) :] in vocabulary:
            merges.append((left, word[len(left) :]))
            vocabulary[word] = len(vocabulary)
    for i in range(300 - len(vocabulary)):
        vocabulary[f"<extra_{i}>"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in QWEN_SPECIALS]
    )
    assert all(tokenizer.token_to_id(token) == i for token, i in QWEN_IDS.items())
    return tokenizer


def _qwen_ids() -> dict[str, int]:
    return {
        "bos_token_id": QWEN_IDS["<|endoftext|>"],
        "eos_token_id": QWEN_IDS["<|im_end|>"],
        "vision_start_token_id": QWEN_IDS["<|vision_start|>"],
        "vision_end_token_id": QWEN_IDS["<|vision_end|>"],
        "vision_token_id": QWEN_IDS["<|vision_pad|>"],
        "image_token_id": QWEN_IDS["<|image_pad|>"],
        "video_token_id": QWEN_IDS["<|video_pad|>"],
    }


def _qwen_generation() -> dict[str, Any]:
    text_end, turn_end = QWEN_IDS["<|endoftext|>"], QWEN_IDS["<|im_end|>"]
    return {
        "bos_token_id": text_end,
        "pad_token_id": text_end,
        "eos_token_id": [turn_end, text_end],
        "do_sample": True,
        "repetition_penalty": 1.05,
        "temperature": 1e-06,
    }


def _decoder(wider: int) -> tuple[dict[str, int], dict[str, int]]:
    """The decoder's part of a config, and of a manifest's sizes."""
    config = {n: DECODER_CONFIG[n] * wider for n in ("hidden_size", "intermediate_size")}
    sizes = {n: DECODER_SIZES[n] * wider for n in ("hidden", "mlp", "query", "key")}
    return DECODER_CONFIG | config, DECODER_SIZES | sizes


def _text_sizes(decoder: Mapping[str, int], vocabulary: int) -> dict[str, int]:
    """Sizes for a manifest of whose tensors only the decoder's are wanted."""
    others = ("tower", "tower_mlp", "tower_qkv", "tower_positions", "temporal", "patch", "merged")
    return {**decoder, "vocabulary": vocabulary, "tower_layers": 0, **dict.fromkeys(others, 1)}


def write_weights(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], seed: int, dtype: torch.dtype
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: draw_weight(name, shape, generator).to(dtype) for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def draw_weight(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """A random tensor of a size that suits its role, which its name tells."""
    values = torch.randn(shape, generator=generator)
    if name.endswith("bias"):
        return 0.2 * values
    if name.endswith("embed_tokens.weight"):
        # Small beside what the layers add, or a tied model would repeat its last token for ever.
        return 0.15 * values
    if name.endswith(("lm_head.weight", "position_embedding.weight")):
        return 0.5 * values
    if len(shape) == 1:
        return 0.5 * values if name.endswith("class_embedding") else 1 + 0.2 * values
    fan_in = math.prod(shape[1:])
    return 1.2 * values / math.sqrt(fan_in)


def write_tokenizer(folder: Path, tokenizer: Tokenizer, template: str, **special: str) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {f"{role}_token": token for role, token in special.items()}
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "chat_template": template,
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2), encoding="utf-8")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
