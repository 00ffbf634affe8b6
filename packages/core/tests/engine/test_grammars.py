"""``EngineGrammars`` keeps a place in a grammar for each request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tiny_tokenizers import write_qwen_like

from sensorium import SamplingParams, StructuredOutputs
from sensorium.engine.grammars import EngineGrammars
from sensorium.errors import EngineClosedError, RequestError
from sensorium.grammar import Grammars
from sensorium.tokenizer import Tokenizer
from sensorium.types import EngineRequest

FOX = StructuredOutputs(regex="the (fox|dog) runs")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.load(write_qwen_like(tmp_path_factory.mktemp("qwen")))


@pytest.fixture
def grammars(tokenizer: Tokenizer) -> Iterator[EngineGrammars]:
    made = EngineGrammars(Grammars(tokenizer, tokenizer.vocab_size), forces=True)
    yield made
    made.close()


def request(tokenizer: Tokenizer, name: str, **options: Any) -> EngineRequest:
    eos = tokenizer.eos_token_id
    assert eos is not None
    return EngineRequest(
        request_id=name,
        token_ids=(1,),
        sampling=SamplingParams(**options),
        max_tokens=options.get("max_tokens", 16),
        eos_ids=frozenset([eos]),
    )


def test_requests_go_their_own_ways(tokenizer: Tokenizer, grammars: EngineGrammars) -> None:
    assert not grammars.start(request(tokenizer, "free"))
    for name in ("a", "b"):
        assert grammars.start(request(tokenizer, name, structured_outputs=FOX))
    forced = grammars.forced("a")
    assert "the ".startswith(tokenizer.decode(forced))
    grammars.accept("a", forced)
    [f] = tokenizer.encode_plain("f", continues=True)
    words = np.full((2, -(-tokenizer.vocab_size // 32)), -1, np.int32)
    assert grammars.fill(["b", "a"], words) == {}
    bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little")
    assert not bits[0, f]
    assert bits[0, forced[0]]
    grammars.forget("a")
    grammars.forget("b")
    assert grammars.start(request(tokenizer, "a", structured_outputs=FOX))
    assert grammars.forced("a") == forced


def test_an_answer_is_followed_to_its_end(tokenizer: Tokenizer, grammars: EngineGrammars) -> None:
    grammars.start(request(tokenizer, "a", structured_outputs=FOX))
    for token_id in tokenizer.encode_plain("the fox runs", continues=True):
        assert not grammars.is_complete("a")
        grammars.accept("a", [token_id])
    assert grammars.is_complete("a")
    assert grammars.forced("a") == ()


@pytest.mark.parametrize(
    "options",
    [
        {"bad_words": ["fox"]},
        {"logit_bias": {3: 1.0}},
        {"allowed_token_ids": [3]},
        {"prompt_logprobs": 0},
        {"max_tokens": 0},
    ],
)
def test_requests_whose_tokens_are_all_sampled(
    tokenizer: Tokenizer, grammars: EngineGrammars, options: dict[str, Any]
) -> None:
    grammars.start(request(tokenizer, "a", structured_outputs=FOX, **options))
    assert grammars.forced("a") == ()


def test_forcing_can_be_switched_off(tokenizer: Tokenizer) -> None:
    grammars = EngineGrammars(Grammars(tokenizer, tokenizer.vocab_size), forces=False)
    grammars.start(request(tokenizer, "a", structured_outputs=FOX))
    assert grammars.forced("a") == ()
    grammars.close()


def test_one_that_fails_says_so_alone(tokenizer: Tokenizer, grammars: EngineGrammars) -> None:
    for name in ("a", "b"):
        grammars.start(request(tokenizer, name, structured_outputs=FOX))
    with pytest.raises(RequestError, match="After 0 tokens"):
        grammars.accept("a", tokenizer.encode_plain("zebra", continues=True))
    words = np.full((2, -(-tokenizer.vocab_size // 32)), -1, np.int32)
    assert list(grammars.fill(["a", "b"], words)) == ["a"]


def test_a_form_is_compiled_elsewhere(tokenizer: Tokenizer, grammars: EngineGrammars) -> None:
    asked = request(tokenizer, "a", structured_outputs=FOX)
    grammars.compile(FOX, asked.eos_ids).result(timeout=60)
    with pytest.raises(RequestError, match="unclosed group"):
        grammars.compile(StructuredOutputs(regex="a("), asked.eos_ids).result(timeout=60)
    grammars.close()
    with pytest.raises(EngineClosedError):
        grammars.compile(FOX, asked.eos_ids).result(timeout=60)
    assert grammars.start(asked)


def test_a_grammar_that_fails_in_mid_answer_is_the_callers_fault(
    tokenizer: Tokenizer, grammars: EngineGrammars
) -> None:
    for name in ("a", "b"):
        grammars.start(request(tokenizer, name, structured_outputs=FOX))
    with pytest.raises(RequestError, match="After 0 tokens"):
        grammars.accept("a", tokenizer.encode_plain("dog", continues=True))
    words = np.full((2, -(-tokenizer.vocab_size // 32)), -1, np.int32)
    failed = grammars.fill(["a", "b"], words)
    assert list(failed) == ["a"]
    assert failed["a"].error_class == "RequestError"
    assert "After 0 tokens" in failed["a"]
