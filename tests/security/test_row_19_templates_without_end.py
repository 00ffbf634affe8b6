"""Row 19: a request's chat template loops for ever (CVE-2025-61620)."""

from __future__ import annotations

import pytest

from sensorium import LLM, RequestError, SamplingParams
from sensorium_tiny_models import model_path

TALK = [{"role": "user", "content": "Hello"}]
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
HUGE = (
    "{% set ns = namespace(s='x') %}"
    "{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"
)


def test_it_ends_its_own_request_alone() -> None:
    greedy = SamplingParams(temperature=0, max_tokens=2)
    with LLM(str(model_path()), dtype="float32", engine_process=False, max_model_len=256) as llm:
        for template in (ENDLESS, HUGE):
            with pytest.raises(RequestError, match="The chat template was stopped"):
                llm.chat(TALK, greedy, chat_template=template, use_tqdm=False)
        [output] = llm.chat(TALK, greedy, use_tqdm=False)
        assert output.finished
