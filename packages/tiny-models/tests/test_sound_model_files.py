"""tiny-audio's folder: size, names, ids and template, without running it."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from safetensors import safe_open
from tokenizers import Tokenizer

from sensorium_tiny_models import sound_model_path
from sensorium_tiny_models.spoken import ADJECTIVES, NOUNS

LIMIT_BYTES = 15_000_000

PUBLISHED = re.compile(
    r"audio_tower\.(conv[12]\.(weight|bias)|embed_positions\.weight|layer_norm\.(weight|bias)"
    r"|layers\.\d+\.((self_attn_layer_norm|final_layer_norm|fc[12])\.(weight|bias)"
    r"|self_attn\.((q|v|out)_proj\.(weight|bias)|k_proj\.weight)))"
    r"|multi_modal_projector\.(ln_pre|ln_mid|linear_[12])\.weight"
    r"|language_model\.model\.(embed_tokens\.weight|norm\.weight"
    r"|layers\.\d+\.((input|post_attention)_layernorm\.weight"
    r"|self_attn\.[qkvo]_proj\.weight|mlp\.(gate|up|down)_proj\.weight))"
)


def read(name: str) -> Any:
    return json.loads((sound_model_path() / name).read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(sound_model_path() / "tokenizer.json"))


def test_weights_are_small_bf16_and_named_as_published() -> None:
    file = sound_model_path() / "model.safetensors"
    assert file.stat().st_size <= LIMIT_BYTES
    with safe_open(file, framework="numpy") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert [name for name in names if not PUBLISHED.fullmatch(name)] == []
    config = read("config.json")
    encoder, decoder = config["audio_config"], config["text_config"]
    assert len(names) == (
        15 * encoder["encoder_layers"] + 9 * decoder["num_hidden_layers"] + 7 + 4 + 2
    )


def test_config_ids_are_the_tokenizers(tokenizer: Tokenizer) -> None:
    config, generation = read("config.json"), read("generation_config.json")
    assert config["architectures"] == ["UltravoxModel"]
    assert config["text_model_id"] is config["audio_model_id"] is None
    for given in (config, config["text_config"]):
        assert given["eos_token_id"] == tokenizer.token_to_id("<|im_end|>")
        assert given["bos_token_id"] == tokenizer.token_to_id("<|endoftext|>")
    assert generation["eos_token_id"][0] == config["eos_token_id"]
    assert generation["do_sample"] is False
    assert tokenizer.get_vocab_size() <= config["text_config"]["vocab_size"]


def test_a_spoken_word_is_a_token_and_a_digit_is_one(tokenizer: Tokenizer) -> None:
    for word in (*ADJECTIVES, *NOUNS):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1, word
    tokens = tokenizer.encode("The digits are 4 2.", add_special_tokens=False).tokens
    assert tokens[-5:] == ["Ġ", "4", "Ġ", "2", "."]
    other = "Ünïcode, tabs\tand\nlines, 日本, 🙂"
    assert tokenizer.decode(tokenizer.encode(other).ids) == other


def test_the_template_hears_parts_in_order() -> None:
    jinja2 = pytest.importorskip("jinja2")
    template = jinja2.Template((sound_model_path() / "chat_template.jinja").read_text())
    content = [{"type": "audio"}, {"type": "audio"}, {"type": "text", "text": "Which?"}]
    shown = template.render(
        messages=[{"role": "user", "content": content}], add_generation_prompt=True
    )
    assert shown == (
        "<|im_start|>user\n<|audio|><|audio|>Which?<|im_end|>\n<|im_start|>assistant\n"
    )
