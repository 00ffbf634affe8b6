"""Grammars over the two schemes of tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_tokenizers import write_llama_like, write_qwen_like

from sensorium import StructuredOutputs
from sensorium.grammar import Grammar, Grammars, MaskMaker, Matcher
from sensorium.tokenizer import Tokenizer


class Speller:
    """Spells texts in the tokens that masks allow, and so tells what a grammar takes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size or tokenizer.vocab_size
        eos = tokenizer.eos_token_id
        assert eos is not None
        self.eos_id = eos
        self.grammars = Grammars(tokenizer, self.vocab_size)
        self._maker = MaskMaker(1)

    def compile(self, form: StructuredOutputs) -> Grammar:
        return self.grammars.compile(form, frozenset([self.eos_id]))

    def masks(self, *matchers: Matcher) -> np.ndarray:
        """(len(matchers), vocab_size) booleans."""
        words = np.full((len(matchers), -(-self.vocab_size // 32)), 7, np.int32)
        self._maker.fill(matchers, words)
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(bool)
        assert not bits[:, self.vocab_size :].any()
        return bits[:, : self.vocab_size]

    def takes(self, matcher: Matcher, text: str) -> bool:
        """Whether each token of ``text`` is allowed in turn, and the end behind it."""
        for token_id in self.tokenizer.encode_plain(text, continues=True):
            if not self.masks(matcher)[0, token_id]:
                return False
            matcher.accept([token_id])
        return bool(self.masks(matcher)[0, self.eos_id])


@pytest.fixture(scope="session", params=["qwen", "llama"])
def speller(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Speller:
    """Each scheme in turn; the logits have 37 places that no token has."""
    write = {"qwen": write_qwen_like, "llama": write_llama_like}[request.param]
    tokenizer = Tokenizer.load(write(tmp_path_factory.mktemp(request.param)))
    return Speller(tokenizer, tokenizer.vocab_size + 37)
