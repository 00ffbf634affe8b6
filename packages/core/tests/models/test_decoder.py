"""The decoder on its own: logits equal transformers' for every feature of its configs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from decoder_helpers import loaded, logits_of

from sensorium.errors import ConfigError
from sensorium.models.decoder import Decoder, DeepRows
from sensorium.models.families import read_decoder_config

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama head size": ("llama", {"head_dim": 20}),
    "llama one KV head": ("llama", {"num_key_value_heads": 1}),
    "llama 3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama gelu": ("llama", {"hidden_act": "gelu"}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 windows": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
}
Make = Callable[..., tuple[Path, Any]]


@pytest.mark.parametrize(("style", "options"), VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("spelling", ["transformers 5", "published"])
def test_logits_equal_transformers(
    make: Make,
    publish: Callable[[Path], None],
    style: str,
    options: dict[str, Any],
    spelling: str,
) -> None:
    folder, theirs = make(style, **options)
    if spelling == "published" and "head_dim" not in options:
        publish(folder)
    token_ids = torch.arange(3, 40) * 7 % 96
    with torch.inference_mode():
        expected = theirs(token_ids[None]).logits[0]
    torch.testing.assert_close(logits_of(loaded(folder), token_ids), expected, rtol=0, atol=2e-5)


def test_bfloat16_logits_lie_within_its_rounding(make: Make) -> None:
    """Every rounding step is that of transformers; only the softmax is wider here."""
    folder, theirs = make("qwen2")
    token_ids = torch.arange(3, 40) * 7 % 96
    with torch.inference_mode():
        wide = theirs(token_ids[None]).logits[0]
        expected = theirs.to(torch.bfloat16)(token_ids[None]).logits[0].float()
    result = logits_of(loaded(folder, torch.bfloat16), token_ids)
    # As near to the float32 truth as transformers' own bfloat16, and near to that.
    error, theirs_error = (result - wide).std(), (expected - wide).std()
    assert error < 1.25 * theirs_error
    assert (result - expected).std() < 1.5 * theirs_error


@pytest.mark.gpu
@pytest.mark.parametrize("style", ["llama", "qwen2"])
def test_logits_on_cuda_equal_those_of_the_cpu(make: Make, style: str) -> None:
    folder, _ = make(style)
    token_ids = torch.arange(3, 40) * 7 % 96
    expected = logits_of(loaded(folder), token_ids)
    result = logits_of(loaded(folder, device="cuda"), token_ids.cuda())
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=2e-4)


def test_shards_equal_one_file(make: Make) -> None:
    folder, _ = make("llama")
    shards, _ = make("llama", max_shard_size="8KB")
    assert len(list(shards.glob("*.safetensors"))) > 3
    token_ids = torch.arange(3, 40)
    assert torch.equal(logits_of(loaded(folder), token_ids), logits_of(loaded(shards), token_ids))


def test_deep_rows_are_added_behind_the_first_layers(make: Make) -> None:
    folder, theirs = make("llama")
    rows = torch.tensor([4, 2, 9])
    values = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))

    def add_behind(i: int) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[0, rows] += values[i]
            return output

        return hook

    for i in range(2):
        theirs.model.layers[i].register_forward_hook(add_behind(i))
    token_ids = torch.arange(3, 20)
    with torch.inference_mode():
        expected = theirs(token_ids[None]).logits[0]
    result = logits_of(loaded(folder), token_ids, DeepRows(rows, values))
    torch.testing.assert_close(result, expected, rtol=0, atol=2e-5)


def test_activations_that_arent_built_are_refused(make: Make) -> None:
    config = read_decoder_config({"model_type": "llama", "hidden_act": "relu6"})
    with pytest.raises(ConfigError, match="hidden_act is 'relu6'; built are silu"):
        Decoder(config, dtype=torch.float32, device=torch.device("meta"))
