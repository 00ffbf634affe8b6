"""tiny-audio's folder but for its weights: configuration in the published spelling, and tokenizer.

An Ultravox usually names a text model; this one holds its own (``text_model_id`` null, weights
under ``language_model.``), which the published code takes as well.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sound_talk
import tokenizer as byte_pairs
from tokenizers import Tokenizer

from sensorium_tiny_models.hearing import QUESTION_TYPES, SPOKEN, TRAIN, draw_item, item_rng
from sensorium_tiny_models.spoken import ADJECTIVES, NOUNS, Utterance
from sensorium_tiny_models.tones import Rng

AUDIO = "<|audio|>"
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", AUDIO)
NUM_MEL_BINS = 80
TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] }}
{% if message['content'] is string -%}
{{ message['content'] }}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'audio' -%}
<|audio|>
{%- elif 'text' in part -%}
{{ part['text'] }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def corpus() -> Iterator[str]:
    """The text to learn merges from: questions, answers, and the words that are spoken."""
    for name in QUESTION_TYPES:
        for index in range(60 if name in SPOKEN else 300):
            item = draw_item(item_rng(f"tokenizer/{name}", 0, index), TRAIN, name, 4.0, Silent())
            yield from (item.question, item.answer)
    rng = random.Random(0)
    for _ in range(2000):
        yield f"It says: {rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}."
    for question, answer in sound_talk.SMALL_TALK:
        yield from (question, answer) * 40
    yield from ("system\nuser\nassistant\n", *sound_talk.SYSTEM_PROMPTS) * 40


class Silent:
    """A ``Speaker`` that says nothing: of the items only the text is wanted."""

    def say(self, rng: Rng, text: str, *, held_out: bool) -> Utterance:
        """A tenth of a second of silence."""
        return Utterance(np.zeros(1600, dtype=np.float32), "nobody")


def config(tokenizer: Tokenizer, *, small: bool = False) -> dict[str, Any]:
    """config.json: about 6.6 million parameters; ``small``: a twentieth, to try training with."""
    tower, layers, width, depth = (64, 2, 128, 2) if small else (192, 6, 256, 4)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    return {
        "architectures": ["UltravoxModel"],
        "audio_config": {
            "activation_function": "gelu",
            "d_model": tower,
            "encoder_attention_heads": tower // 64,
            "encoder_ffn_dim": 4 * tower,
            "encoder_layers": layers,
            "max_source_positions": 1500,
            "model_type": "whisper",
            "num_hidden_layers": layers,
            "num_mel_bins": NUM_MEL_BINS,
            "scale_embedding": False,
        },
        "audio_latency_block_size": None,
        "audio_model_id": None,
        "bos_token_id": pad,
        "eos_token_id": end,
        "hidden_size": 2 * width,
        "ignore_index": -100,
        "model_type": "ultravox",
        "projector_act": "swiglu",
        "projector_ln_mid": True,
        "stack_factor": 8,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": False,
            "bos_token_id": pad,
            "eos_token_id": end,
            "head_dim": 64,
            "hidden_act": "silu",
            "hidden_size": width,
            "initializer_range": 0.02,
            "intermediate_size": 2 * width,
            "max_position_embeddings": 4096,
            "mlp_bias": False,
            "model_type": "llama",
            "num_attention_heads": width // 64,
            "num_hidden_layers": depth,
            "num_key_value_heads": width // 128,
            "rms_norm_eps": 1e-06,
            "rope_theta": 10000.0,
            "tie_word_embeddings": True,
            "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
        },
        "text_model_id": None,
        "torch_dtype": "bfloat16",
        "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64,
    }


def preprocessor_config() -> dict[str, Any]:
    """preprocessor_config.json, as Whisper's but for the number of filters."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": NUM_MEL_BINS,
        "hop_length": 160,
        "n_fft": 400,
        "padding_side": "right",
        "padding_value": 0.0,
        "sampling_rate": 16000,
    }


def prepare(folder: Path, *, small: bool = False) -> Tokenizer:
    """Writes everything of the folder but the weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_pairs.build(corpus(), 1024, SPECIAL_TOKENS)
    byte_pairs.save(tokenizer, folder, SPECIAL_TOKENS, TEMPLATE)
    end, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    generation = {
        "bos_token_id": pad, "do_sample": False, "eos_token_id": [end, pad], "max_new_tokens": 48,
        "pad_token_id": pad,
    }  # fmt: skip
    for name, content in (
        ("config.json", config(tokenizer, small=small)),
        ("generation_config.json", generation),
        ("preprocessor_config.json", preprocessor_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return tokenizer
