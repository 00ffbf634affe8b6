"""The names that users of vLLM write are there, and take what they give."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from sensorium import LLM, SamplingParams, UnsupportedError
from sensorium.config import EngineConfig
from sensorium.sampling_params import StructuredOutputsParams

OPTIONS: dict[str, Any] = {
    "model": "m",
    "tokenizer": "t",
    "trust_remote_code": True,
    "revision": "main",
    "download_dir": "/tmp",
    "hf_overrides": {"a": 1},
    "dtype": "bfloat16",
    "seed": 3,
    "max_model_len": 1024,
    "gpu_memory_utilization": 0.5,
    "enforce_eager": True,
    "limit_mm_per_prompt": {"scent": {"count": 2, "sensors": 8}, "note": 1},
    "media_io_kwargs": {"scent": {"a": 1}},
    "mm_processor_kwargs": {"b": 2},
    "mm_processor_cache_gb": 1,
    "enable_prefix_caching": False,
    "enable_chunked_prefill": False,
    "max_num_batched_tokens": 512,
    "max_num_seqs": 8,
    "tensor_parallel_size": 1,
    "allowed_local_media_path": "/tmp",
    "allowed_media_domains": ["a.example"],
    "interleave_mm_strings": True,
    "load_format": "dummy",
    "generation_config": "auto",
    "task": "generate",
    "runner": "generate",
}
SAMPLING: dict[str, Any] = {
    "n": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.2,
    "seed": 1,
    "stop": ["x"],
    "stop_token_ids": [3],
    "ignore_eos": True,
    "max_tokens": 4,
    "min_tokens": 1,
    "logprobs": 3,
    "prompt_logprobs": 2,
    "skip_special_tokens": False,
    "include_stop_str_in_output": True,
    "logit_bias": {5: 1.0},
    "bad_words": ["a"],
    "structured_outputs": StructuredOutputsParams(choice=["a", "b"]),
}
METHODS = {
    "generate": ("prompts", "sampling_params", "use_tqdm"),
    "chat": ("messages", "sampling_params", "use_tqdm", "chat_template", "add_generation_prompt",
             "continue_final_message", "tools", "mm_processor_kwargs"),
    "embed": ("prompts", "use_tqdm", "pooling_params"),
    "encode": ("prompts", "pooling_params", "use_tqdm"),
    "reset_mm_cache": (),
    "reset_prefix_cache": (),
    "get_tokenizer": (),
}  # fmt: skip


def test_options_of_an_engine_are_kept_as_given() -> None:
    config = EngineConfig.from_options(**OPTIONS)
    assert {name: getattr(config, name) for name in OPTIONS} == OPTIONS


@pytest.mark.parametrize("name", SAMPLING)
def test_sampling_parameters_are_kept_as_given(name: str) -> None:
    given = SAMPLING[name]
    kept = getattr(SamplingParams(**{name: given}), name)
    assert (list(kept) if isinstance(kept, tuple) else kept) == given


@pytest.mark.parametrize("name", ["guided_json", "guided_regex", "guided_choice"])
def test_what_vllm_gave_up_is_refused_with_the_new_spelling(name: str) -> None:
    spelling = name.removeprefix("guided_")
    with pytest.raises(UnsupportedError, match=rf"{name}.*structured_outputs=.*\({spelling}="):
        SamplingParams(**{name: "x"})


@pytest.mark.parametrize("name", METHODS)
def test_methods_and_their_arguments(name: str) -> None:
    assert set(METHODS[name]) <= set(inspect.signature(getattr(LLM, name)).parameters)
