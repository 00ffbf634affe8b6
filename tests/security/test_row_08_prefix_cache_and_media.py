"""Threat 8: the prefix cache reuses pages computed from another picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sensorium import LLM, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True, logprobs=1)
PROMPT = "Some words in front so that pages fill up. <image> What is it?"


def noise(seed: int) -> Image.Image:
    """A picture like no other of the same size."""
    values = np.random.default_rng(seed).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    return Image.fromarray(values)


def ask(llm: LLM, image: Image.Image, salt: str = "") -> tuple[list[float], int]:
    """The chosen tokens' log-probabilities, and how many prompt tokens came from the cache."""
    prompt = {"prompt": PROMPT, "multi_modal_data": {"image": image}, "cache_salt": salt}
    output = llm.generate(prompt, GREEDY, use_tqdm=False)[0]
    logprobs = output.outputs[0].logprobs
    assert logprobs is not None
    return [max(p.logprob for p in entry.values()) for entry in logprobs], output.num_cached_tokens


def test_row_08_another_picture_never_meets_cached_pages(llm: LLM, vl_folder: Path) -> None:
    with LLM(vl_folder, dtype="float32", max_model_len=1024, enable_prefix_caching=False) as plain:
        expected = {seed: ask(plain, noise(seed))[0] for seed in (1, 2)}
        assert not np.allclose(expected[1], expected[2]), "the pictures must matter to the model"
    first, _ = ask(llm, noise(1))
    other, cached_for_other = ask(llm, noise(2))
    again, cached_again = ask(llm, noise(1))
    np.testing.assert_allclose(first, expected[1], atol=1e-4)
    np.testing.assert_allclose(other, expected[2], atol=1e-4)
    np.testing.assert_allclose(again, expected[1], atol=1e-4)
    assert cached_again > cached_for_other, "the same picture must be found, another's must not"


def test_row_08_another_salt_shares_nothing(llm: LLM) -> None:
    ask(llm, noise(3), salt="tenant a")
    _, cached_same = ask(llm, noise(3), salt="tenant a")
    _, cached_other = ask(llm, noise(3), salt="tenant b")
    assert cached_same > 0
    assert cached_other == 0
