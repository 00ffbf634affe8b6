"""The model's folder: size, names, ids and template, without running it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from sensorium_tiny_models import model_path
from sensorium_tiny_models.clips import CLIP_TYPES
from sensorium_tiny_models.questions import HELD_OUT, QUESTION_TYPES, TRAIN, item_rng
from sensorium_tiny_models.score import draw_one

LIMIT_BYTES = 15_000_000

PUBLISHED = re.compile(
    r"visual\.(patch_embed\.proj\.weight"
    r"|blocks\.\d+\.(norm[12]\.weight|attn\.(qkv|proj)\.(weight|bias)"
    r"|mlp\.(gate|up|down)_proj\.(weight|bias))"
    r"|merger\.(ln_q\.weight|mlp\.[02]\.(weight|bias)))"
    r"|model\.(embed_tokens\.weight|norm\.weight"
    r"|layers\.\d+\.((input|post_attention)_layernorm\.weight"
    r"|self_attn\.([qkv]_proj\.(weight|bias)|o_proj\.weight)"
    r"|mlp\.(gate|up|down)_proj\.weight))"
)


def read(name: str) -> Any:
    return json.loads((model_path() / name).read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(model_path() / "tokenizer.json"))


def test_weights_are_small_bf16_and_named_as_published() -> None:
    file = model_path() / "model.safetensors"
    assert file.stat().st_size <= LIMIT_BYTES
    with safe_open(file, framework="numpy") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert [name for name in names if not PUBLISHED.fullmatch(name)] == []
    config = read("config.json")
    assert (
        len(names) == 12 * config["num_hidden_layers"] + 12 * config["vision_config"]["depth"] + 8
    )


def test_config_ids_are_the_tokenizers(tokenizer: Tokenizer) -> None:
    config, generation = read("config.json"), read("generation_config.json")
    for key, token in (
        ("image_token_id", "<|image_pad|>"),
        ("video_token_id", "<|video_pad|>"),
        ("vision_start_token_id", "<|vision_start|>"),
        ("vision_end_token_id", "<|vision_end|>"),
        ("vision_token_id", "<|vision_pad|>"),
        ("eos_token_id", "<|im_end|>"),
        ("bos_token_id", "<|endoftext|>"),
    ):
        assert config[key] == tokenizer.token_to_id(token)
    assert generation["eos_token_id"] == [
        tokenizer.token_to_id("<|im_end|>"),
        tokenizer.token_to_id("<|endoftext|>"),
    ]
    assert generation["do_sample"] is False
    assert tokenizer.get_vocab_size() <= config["vocab_size"]


def test_config_is_in_the_published_flat_spelling() -> None:
    config = read("config.json")
    assert config["architectures"] == ["Qwen2_5_VLForConditionalGeneration"]
    assert "text_config" not in config
    assert config["rope_scaling"]["type"] == "mrope"
    head_size = config["hidden_size"] // config["num_attention_heads"]
    assert 2 * sum(config["rope_scaling"]["mrope_section"]) == head_size
    assert config["vision_config"]["out_hidden_size"] == config["hidden_size"]


@pytest.mark.parametrize("split", [TRAIN, HELD_OUT])
def test_the_tokenizer_gives_text_back(tokenizer: Tokenizer, split: str) -> None:
    types = (*QUESTION_TYPES, *CLIP_TYPES)
    for i in range(84):
        item = draw_one(item_rng("tests", 5, i), split, types[i % len(types)])
        for text in (item.question, item.answer):
            assert tokenizer.decode(tokenizer.encode(text).ids) == text
    other = "Ünïcode, tabs\tand\nlines, 日本, 🙂"
    assert tokenizer.decode(tokenizer.encode(other).ids) == other


def test_digits_are_single_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("The number is 4821.").tokens
    assert tokens[-5:] == ["4", "8", "2", "1", "."]


def test_the_template_shows_parts_in_order() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Template((model_path() / "chat_template.jinja").read_text())
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "image"}, {"type": "text", "text": "One "}, {"type": "image"},
            {"type": "text", "text": "two"},
        ]},
    ]  # fmt: skip
    start = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    shown = f"{start}{picture}One {picture}two<|im_end|>\n"
    assert template.render(messages=messages) == shown
    open_turn = template.render(messages=messages, add_generation_prompt=True)
    assert open_turn == f"{shown}<|im_start|>assistant\n"
    assert read("tokenizer_config.json")["chat_template"] == (
        (model_path() / "chat_template.jinja").read_text()
    )


def test_pictures_stay_in_the_range_that_training_saw() -> None:
    settings = read("preprocessor_config.json")
    assert settings["image_processor_type"] == "Qwen2VLImageProcessor"
    assert settings["max_pixels"] == 224 * 224
    assert settings["min_pixels"] == 112 * 112


def test_frames_of_clips_too() -> None:
    pictures, frames = read("preprocessor_config.json"), read("processor_config.json")
    assert set(frames) == {"processor_class", "video_processor"}
    settings = frames["video_processor"]
    assert settings["max_pixels"] == 168 * 168
    assert all(settings[key] == pictures[key] for key in pictures if key in settings
               and key != "max_pixels")  # fmt: skip
