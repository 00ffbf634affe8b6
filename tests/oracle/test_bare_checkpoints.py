"""Checkpoints of the bare model: names without ``model.``, architectures like ``Qwen3Model``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from greedy import Comparison
from safetensors.torch import load_file, save_file
from text_checkpoints import make_text
from tiny_checkpoints import make_llava, make_qwen2, make_qwen2vl, make_qwen25vl
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText

from sensorium import LLM, ConfigError, RequestError, SamplingParams

ARCHITECTURES = {
    "llama 3": "LlamaModel",
    "mistral": "MistralModel",
    "qwen2": "Qwen2Model",
    "qwen3": "Qwen3Model",
    "phi 3": "Phi3Model",
    "gemma 2": "Gemma2Model",
    "gemma 3": "Gemma3TextModel",
    "olmo 2": "Olmo2Model",
}
PROMPTS = [np.random.default_rng(n).integers(3, 300, n).tolist() for n in (1, 7, 40)]
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


def bare(folder: Path, name: str, *, architecture: str | None, **config: Any) -> Path:
    """A checkpoint without the prefix; of an architecture of its own, also without a head."""
    made = make_qwen2(folder, seed=3) if name == "qwen2" else make_text(folder, name, seed=3)
    file = made / "model.safetensors"
    tensors = {key.removeprefix("model."): value for key, value in load_file(file).items()}
    written = json.loads((made / "config.json").read_text()) | config
    if architecture is not None:
        tensors.pop("lm_head.weight", None)
        written["architectures"] = [architecture]
    save_file(tensors, file, metadata={"format": "pt"})
    (made / "config.json").write_text(json.dumps(written))
    return made


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_embeddings_of_a_bare_model_are_transformers(tmp_path: Path, name: str) -> None:
    folder = bare(tmp_path / "m", name, architecture=ARCHITECTURES[name])
    reference: Any = AutoModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with LLM(folder, dtype="float32", max_model_len=64) as llm:
        outputs = llm.encode(PROMPTS, use_tqdm=False)
        with pytest.raises(RequestError, match="loaded to embed"):
            llm.generate(PROMPTS, GREEDY, use_tqdm=False)
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        with torch.inference_mode():
            states = reference(torch.tensor([prompt])).last_hidden_state[0, -1]
        torch.testing.assert_close(output.outputs.data, states, rtol=0, atol=1e-3)


def test_a_checkpoint_that_pools_otherwise_is_not_loaded_to_embed(tmp_path: Path) -> None:
    folder = bare(tmp_path / "m", "qwen3", architecture="Qwen3Model", tie_word_embeddings=True)
    modules = [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ConfigError, match="pools by mean"):
        LLM(folder)
    with LLM(folder, max_model_len=64, task="generate") as llm:
        assert llm.generate(PROMPTS, GREEDY, use_tqdm=False)[0].finished


@pytest.mark.parametrize("architecture", [None, "Qwen3Model"])
def test_a_bare_model_generates_where_its_config_ties_the_head(
    tmp_path: Path, architecture: str | None
) -> None:
    folder = bare(tmp_path / "m", "qwen3", architecture=architecture, tie_word_embeddings=True)
    reference: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    comparison = Comparison()
    with LLM(folder, dtype="float32", max_model_len=64, task="generate") as llm:
        for output in llm.generate(PROMPTS, GREEDY, use_tqdm=False):
            answer = output.outputs[0].token_ids
            ids = torch.tensor([[*output.prompt_token_ids, *answer]])
            with torch.inference_mode():
                logits = reference(ids).logits[0]
            comparison.add(logits[-len(answer) - 1 : -1], answer, f"{ids.shape[1]} tokens")
    assert comparison.num_tokens == len(PROMPTS) * 8


def test_a_bare_model_without_a_head_cannot_generate(tmp_path: Path) -> None:
    folder = bare(tmp_path / "m", "mistral", architecture="MistralModel")
    with pytest.raises(ConfigError, match=r"nothing fills lm_head\.weight"):
        LLM(folder, task="generate")


def test_a_head_that_nobody_needs_is_passed_over(tmp_path: Path) -> None:
    """A model to generate, loaded to embed."""
    folder = make_text(tmp_path / "m", "mistral", seed=3)
    reference: Any = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with LLM(folder, dtype="float32", max_model_len=64, task="embed") as llm:
        [output] = llm.encode(PROMPTS[1:2], use_tqdm=False)
    with torch.inference_mode():
        states = reference(torch.tensor(PROMPTS[1:2])).last_hidden_state[0, -1]
    torch.testing.assert_close(output.outputs.data, states, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["gemma 2", "qwen3"])
def test_a_head_of_its_own_counts_although_the_config_ties_it(tmp_path: Path, name: str) -> None:
    folder = make_text(tmp_path / "m", name, seed=3)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(9)
    shape = tensors["model.embed_tokens.weight"].shape
    tensors["lm_head.weight"] = 0.5 * torch.randn(shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["tie_word_embeddings"] = True
    (folder / "config.json").write_text(json.dumps(config))
    reference: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    comparison = Comparison()
    with LLM(folder, dtype="float32", max_model_len=64) as llm:
        [output] = llm.generate(PROMPTS[1:2], GREEDY, use_tqdm=False)
    answer = output.outputs[0].token_ids
    with torch.inference_mode():
        logits = reference(torch.tensor([[*output.prompt_token_ids, *answer]])).logits[0]
    comparison.add(logits[-len(answer) - 1 : -1], answer, name)
    assert not torch.equal(reference.lm_head.weight, reference.model.embed_tokens.weight)


#: How transformers 5 saves the bare models of families with towers, against the published names.
BARE_NAMES = {
    make_llava: (
        ("language_model.lm_head.", "lm_head."),
        ("language_model.model.", "language_model."),
    ),
    make_qwen2vl: (("model.", "language_model."),),
    make_qwen25vl: (("model.", "language_model."),),
}


@pytest.mark.parametrize("make", BARE_NAMES, ids=lambda make: make.__name__)
def test_bare_models_with_towers_load_the_same_weights(
    tmp_path: Path, make: Callable[..., Path]
) -> None:
    folder = make(tmp_path / "m", seed=3)
    published = load_file(folder / "model.safetensors")
    renamed = {}
    for name, tensor in published.items():
        pairs = ((old, new) for old, new in BARE_NAMES[make] if name.startswith(old))
        old, new = next(pairs, ("", ""))
        renamed[new + name.removeprefix(old)] = tensor
    assert renamed.keys() != published.keys()
    answers = []
    for tensors in (published, renamed):
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with LLM(folder, dtype="float32", max_model_len=128) as llm:
            outputs = llm.generate([[5, 6, 7], [9] * 20], GREEDY, use_tqdm=False)
            answers.append([output.outputs[0].token_ids for output in outputs])
        reference: Any = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
        answers.append([p.double().sum().item() for p in reference.parameters()])
    assert answers[:2] == answers[2:], "the same weights, here and in transformers"
