"""``truncate_prompt_tokens``: the answer is that of the tokens that are kept."""

from __future__ import annotations

import pytest

from sensorium import LLM, SamplingParams
from sensorium_tiny_models import model_path

IDS = list(range(100, 140))


@pytest.mark.parametrize(
    ("kept", "side", "expected"),
    [(7, "left", IDS[-7:]), (7, "right", IDS[:7]), (-1, "left", IDS[-28:])],
)
def test_the_answer_is_that_of_what_is_kept(kept: int, side: str, expected: list[int]) -> None:
    # Positions on three axes; 28 tokens leave room for 4.
    with LLM(str(model_path()), dtype="float32", engine_process=False, max_model_len=32) as llm:
        options = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
        cut = SamplingParams(**options, truncate_prompt_tokens=kept, truncation_side=side)
        [found] = llm.generate([IDS], cut, use_tqdm=False)
        [oracle] = llm.generate([expected], SamplingParams(**options), use_tqdm=False)
        assert list(found.prompt_token_ids) == expected
        assert found.outputs[0].token_ids == oracle.outputs[0].token_ids
        assert found.metrics.num_prompt_tokens == len(expected)
