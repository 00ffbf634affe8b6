"""Grammars over the two schemes of tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_tokenizers import write_llama_like, write_qwen_like

from sensorium.grammar import Grammars, MaskMaker, Matcher
from sensorium.tokenizer import Tokenizer


class Speller:
    """Spells texts in the tokens that masks allow, and so tells what a grammar takes."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size or tokenizer.vocab_size
        eos = tokenizer.eos_token_id
        assert eos is not None
        self.eos_id = eos
        self.grammars = Grammars(tokenizer, [eos], self.vocab_size)
        self._maker: MaskMaker | None = None

    def masks(self, *matchers: Matcher | None) -> np.ndarray:
        """(len(matchers), vocab_size) booleans."""
        if self._maker is None:
            self._maker = self.grammars.mask_maker(1)
        words = self._maker.make(matchers)
        assert words.shape == (len(matchers), -(-self.vocab_size // 32))
        bits = np.unpackbits(words.view(np.uint8), axis=1, bitorder="little").astype(bool)
        assert not bits[[m is not None for m in matchers], self.vocab_size :].any()
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
