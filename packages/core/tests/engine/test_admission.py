"""Ids are held against the vocabulary, whoever brings them."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from sensorium.engine.admission import Admission
from sensorium.engine.generation_config import read_generation_config
from sensorium.errors import PluginError, RequestError
from sensorium.frontend.frontend import PreparedPrompt
from sensorium.outputs import RequestMetrics
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import Tokenizer
from sensorium.tokenizer.settings import TokenizerSettings
from sensorium.types import Composition, EngineRequest, MediaPlan, MediaSpan, PreparedItem

VOCAB = 8


def admission(size: int = VOCAB) -> Admission:
    words = {chr(97 + i): i for i in range(size)}
    tokenizer = Tokenizer(
        Backend(models.BPE(vocab=words, merges=[])), TokenizerSettings({}, (), (), {})
    )
    return Admission(
        tokenizer=tokenizer,
        generation=read_generation_config("m", {"eos_token_id": 7}, {}, tokenizer, VOCAB),
        embed_row_bytes={"scent": 4},
        max_model_len=16,
        vocab_size=VOCAB,
        max_logprobs=20,
    )


def admit(
    token_ids: tuple[int, ...],
    spans: tuple[MediaSpan, ...] = (),
    size: int = VOCAB,
    **params: Any,
) -> EngineRequest:
    item = PreparedItem("scent", 3, b"key", MediaPlan(token_ids=(1, 1), num_tokens=2), {})
    prepared = PreparedPrompt(
        text=None,
        composition=Composition(token_ids, spans),
        items=(item,) * len(spans),
        salt="",
        num_hits=0,
    )
    metrics, sampling = RequestMetrics(arrival_s=0.0), SamplingParams(**params)
    admitted = admission(size).generation(
        "r", "r", prepared, metrics, sampling=sampling, priority=0
    )
    [request] = admitted.requests
    return request


SPAN = MediaSpan(item=0, offset=1, length=2, item_slice=(0, 2))


@pytest.mark.parametrize("strange", [-1, VOCAB, 10**12])
def test_ids_of_the_prompt_and_of_plans(strange: int) -> None:
    assert admit((0, 1, 1, 7), (SPAN,)).token_ids == (0, 1, 1, 7)
    with pytest.raises(RequestError, match=rf"^The prompt has the token id {strange}; .* 0 to 7"):
        admit((0, 1, 1, strange), (SPAN,))
    with pytest.raises(PluginError, match=rf"^The plan of scent 3 has the token id {strange};"):
        admit((0, 1, strange, 7), (SPAN,))


@pytest.mark.parametrize("name", ["stop_token_ids", "allowed_token_ids", "logit_bias"])
def test_ids_of_sampling(name: str) -> None:
    def given(token_id: int) -> dict[str, Any]:
        return {name: {token_id: 1.0} if name == "logit_bias" else [0, token_id]}

    admit((0,), **given(VOCAB - 1))
    with pytest.raises(RequestError, match=f"^{name} has the token id {VOCAB}; allowed are 0 to 7"):
        admit((0,), **given(VOCAB))


def test_bad_words_that_the_vocabulary_cannot_write_are_left_out() -> None:
    """Also those of which only a part is beyond it."""
    words = set(admit((0,), size=12, bad_words=["a", "bc", "k", "aj"]).bad_word_ids)
    assert words == {(0,), (1, 2)}


def test_end_of_text_is_known_also_where_it_is_ignored() -> None:
    plain, ignoring = (
        admit((0,), stop_token_ids=[2]),
        admit((0,), stop_token_ids=[2], ignore_eos=True),
    )
    assert (plain.stop_ids, plain.eos_ids) == ({2, 7}, {7})
    assert (ignoring.stop_ids, ignoring.eos_ids) == ({2}, {7})
