"""``Vocabulary``: a checkpoint's tokens as the library sees them.

Ids of the model's output that no token has (a padded vocabulary) are never allowed; tokens beyond
the model's output are never forced and have no bit in a mask.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from sensorium.errors import UnsupportedError
from sensorium.grammar.library import llguidance
from sensorium.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Vocabulary:
    """Made once for each checkpoint; it takes about half a second.

    Args:
        eos_ids: tokens that end a text; those that the vocabulary lacks are left out.
        vocab_size: logits of one row.

    Attributes:
        backend: the library's tokenizer.
        eos_ids: sorted.
        num_words: 32-bit words of a mask over the logits.
        last_word: the bits of a mask's last word that stand for tokens.
        num_backend_words: of a mask as the library writes it, never less.

    Raises:
        UnsupportedError: the library isn't there, can't read this tokenizer, or there is no token
            that ends a text.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Iterable[int], vocab_size: int) -> None:
        self.size = vocab_size
        num_ids = max(vocab_size, tokenizer.vocab_size)
        self.eos_ids = tuple(sorted(i for i in set(eos_ids) if 0 <= i < vocab_size))
        if not self.eos_ids:
            raise UnsupportedError(
                "structured_outputs needs a token that ends a text; the checkpoint names none."
            )
        self.num_words = -(-vocab_size // 32)
        used = vocab_size % 32
        self.last_word = np.int32(-1 if used == 0 else (1 << used) - 1)
        self.num_backend_words = -(-num_ids // 32)
        library = llguidance()
        try:
            self.backend: LLTokenizer = library.LLTokenizer(
                _without_normalisation(tokenizer.to_json()),
                n_vocab=num_ids,
                eos_token=list(self.eos_ids),
            )
        except Exception as error:
            raise UnsupportedError(
                "structured_outputs can't be had with this checkpoint's tokenizer: llguidance "
                f"doesn't read it ({str(error).splitlines()[0][:200]})."
            ) from None


# Normalisers that only spell white space as tokens do; the library undoes them.
_SPELLING = ("Prepend", "Replace")


def _without_normalisation(tokenizer_json: str) -> str:
    """The tokenizer without the steps that would change a text's characters.

    Text that a grammar forces is answered to the letter: NFC, which Qwen's tokenizers apply to
    prompts, would make other characters of some (U+F900 becomes U+8C48), and the tokens of those
    are not what the grammar takes.
    """
    content: dict[str, Any] = json.loads(tokenizer_json)
    normalizer = content.get("normalizer") or {"type": "Sequence", "normalizers": []}
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    kept = [step for step in steps if step["type"] in _SPELLING]
    content["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    return json.dumps(content)
