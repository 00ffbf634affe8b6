"""Every family's decoder on its own against transformers, and that its peculiarities count."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_backends import Attention
from decoder_helpers import loaded, logits_of
from text_checkpoints import CASES, load_reference, make_text

from sensorium.decoder_config import RopeConfig
from sensorium.models.decoder import Decoder
from sensorium.models.layers import weight_slots
from sensorium.models.load import fill_randomly

#: Longer than every window and than the original context of every extended case.
TOKENS = torch.arange(3, 63) * 7 % 290 + 3


def our_logits(folder: Path, name: str, dtype: torch.dtype, **fields: Any) -> torch.Tensor:
    length = CASES[name].max_model_len
    return logits_of(loaded(folder, dtype, max_model_len=length, **fields), TOKENS)


@functools.cache
def their_logits(name: str, kept: torch.dtype, computed: torch.dtype) -> torch.Tensor:
    """(TOKENS, vocabulary) of ``make_text``'s weights in transformers, in float32.

    Args:
        kept: of the checkpoint.
        computed: of the model.
    """
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        make_text(Path(folder), name, dtype=kept)
        reference = load_reference(Path(folder), name, computed)
        logits: torch.Tensor = reference(TOKENS[None]).logits[0].float()
    return logits


def truth_and_theirs(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What weights in bfloat16 give in float32, and what they give in transformers' bfloat16."""
    half, single = torch.bfloat16, torch.float32
    return their_logits(name, half, single), their_logits(name, half, half)


@pytest.mark.parametrize("name", CASES)
def test_float32_logits_equal_transformers(name: str, tmp_path: Path, attention: Attention) -> None:
    folder = make_text(tmp_path, name)
    expected = their_logits(name, torch.float32, torch.float32)
    result = our_logits(folder, name, torch.float32)
    attention.assert_ran("paged_attention")
    spread = float(expected.std())
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4 * max(1.0, spread))
    assert spread > 0.2, "the logits are too alike to tell two models apart"


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_lie_within_its_rounding(
    name: str, tmp_path: Path, attention: Attention
) -> None:
    """As near to the float32 truth as transformers' own bfloat16: its error is the tolerance."""
    folder = make_text(tmp_path, name, dtype=torch.bfloat16)
    truth, theirs = truth_and_theirs(name)
    error = (our_logits(folder, name, torch.bfloat16) - truth).std() / truth.std()
    attention.assert_ran("paged_attention")
    their_error = (theirs - truth).std() / truth.std()
    print(f"{name}: {error:.4f}, transformers {their_error:.4f}")
    assert error < 1.25 * their_error
    assert error < 0.1


@pytest.mark.gpu
@pytest.mark.parametrize("name", CASES)
def test_bfloat16_logits_on_cuda_lie_within_its_rounding(name: str, tmp_path: Path) -> None:
    """By the kernels where they are compiled for the head size, else by the reference."""
    folder = make_text(tmp_path, name, dtype=torch.bfloat16)
    truth, theirs = truth_and_theirs(name)
    length = CASES[name].max_model_len
    decoder = loaded(folder, torch.bfloat16, "cuda", max_model_len=length)
    result = logits_of(decoder, TOKENS.cuda()).cpu()
    assert (result - truth).std() < 1.25 * (theirs - truth).std()


@pytest.mark.parametrize("name", CASES)
def test_dummy_weights_give_numbers(name: str, tmp_path: Path) -> None:
    """``load_format="dummy"`` fills every family, whatever its norms are."""
    folder = make_text(tmp_path, name)
    decoder = loaded(folder)
    for parameter in decoder.parameters():
        parameter.fill_(float("nan"))
    fill_randomly(weight_slots(decoder), seed=1)
    logits = logits_of(decoder, TOKENS)
    assert logits.isfinite().all()
    assert logits.std() > 0


def without(field: str) -> dict[str, Any]:
    """The config's field as Llama has it."""
    defaults: dict[str, Any] = {
        "norm_offset": 0.0,
        "embed_scale": None,
        "attention_scale": None,
        "attention_soft_cap": None,
        "logit_soft_cap": None,
        "sliding_window": None,
        "local_rope": None,
        "activation": "gelu",
        "rope": RopeConfig(theta=1e4),
    }
    return {field: defaults[field]}


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("llama 3", "rope"),
        ("llama linear", "rope"),
        ("llama yarn", "rope"),
        ("llama dynamic, extended", "rope"),
        ("mistral windows", "sliding_window"),
        ("qwen3 windows", "sliding_window"),
        ("phi 3", "rope"),
        ("phi 3 long", "rope"),
        ("phi 3 su, part of a head", "rope"),
        ("phi 3 su, part of a head", "sliding_window"),
        ("gemma 2", "norm_offset"),
        ("gemma 2", "embed_scale"),
        ("gemma 2", "attention_scale"),
        ("gemma 2", "attention_soft_cap"),
        ("gemma 2", "logit_soft_cap"),
        ("gemma 2", "sliding_window"),
        ("gemma 2", "activation"),
        ("gemma 3", "norm_offset"),
        ("gemma 3", "attention_scale"),
        ("gemma 3", "sliding_window"),
        ("gemma 3", "local_rope"),
        ("gemma 3", "rope"),
    ],
)
def test_a_peculiarity_left_out_shows(name: str, field: str, tmp_path: Path) -> None:
    """The tiny checkpoints exercise what they are there for: 1e-4 would not hide its absence."""
    folder = make_text(tmp_path, name)
    right = our_logits(folder, name, torch.float32)
    wrong = our_logits(folder, name, torch.float32, **without(field))
    # The exact and the tanh form of GELU differ by no more than 5e-4 each time.
    least = 2e-4 if field == "activation" else 1e-2
    assert (right - wrong).abs().max() > least


def test_windows_alternate(tmp_path: Path) -> None:
    def windows(name: str) -> list[int | None]:
        decoder: Decoder = loaded(make_text(tmp_path / name, name))
        return [layer.window for layer in decoder.layers]  # type: ignore[misc]

    assert windows("gemma 2") == [12, None, 12, None, 12]
    assert windows("gemma 3") == [12, 12, None, 12, 12]
    assert windows("qwen3 windows") == [None, 12, 12]
    assert windows("mistral windows") == [20, 20, 20]


# --- scalings that depend on the length ---------------------------------------------------


@pytest.mark.parametrize("style", ["phi 3 long", "llama dynamic, extended"])
def test_the_choice_is_transformers_at_the_engines_longest_sequence(
    style: str, tmp_path: Path
) -> None:
    """Unedited, in one pass over a sequence of exactly ``max_model_len`` tokens."""
    from transformers import AutoModelForCausalLM

    folder = make_text(tmp_path, style)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    token_ids = torch.arange(100) * 11 % 290 + 3
    with torch.inference_mode():
        expected = theirs(token_ids[None]).logits[0]
    result = logits_of(loaded(folder, max_model_len=100), token_ids)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("style", ["phi 3 long", "llama dynamic, extended"])
def test_within_the_original_length_nothing_is_extended(style: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = make_text(tmp_path, style)
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    token_ids = TOKENS[:48]
    with torch.inference_mode():
        expected = theirs(token_ids[None]).logits[0]
    within = logits_of(loaded(folder, max_model_len=48), token_ids)
    torch.testing.assert_close(within, expected, rtol=0, atol=1e-4)
    # The same tokens where longer sequences are admitted: other frequencies.
    beyond = logits_of(loaded(folder, max_model_len=200), token_ids)
    assert (beyond - expected).abs().max() > 1e-2
    # Nobody said how long: as long as the checkpoint was made for.
    unsaid = loaded(folder)
    said = loaded(folder, max_model_len=unsaid.config.max_positions)
    assert torch.equal(logits_of(unsaid, token_ids), logits_of(said, token_ids))
