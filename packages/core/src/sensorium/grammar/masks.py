"""``MaskMaker``: masks over the vocabulary for the sequences of one step.

A mask has a bit for each token, 1 where it is allowed: bit ``i % 32`` of 32-bit word ``i // 32``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sensorium.grammar.library import llguidance
from sensorium.grammar.matcher import Matcher

Masks = npt.NDArray[np.int32]


class MaskMaker:
    """Makes masks, several at once without the interpreter's lock. Used from one thread.

    Args:
        num_threads: at least 1; of the library's own.
    """

    def __init__(self, num_threads: int) -> None:
        self._executor = llguidance().LLExecutor(num_threads)

    def fill(self, matchers: Sequence[Matcher], words: Masks) -> None:
        """Writes the masks of the tokens that may follow.

        A matcher that fails here says so (``has_failed``), and its mask means nothing.

        Args:
            matchers: of one checkpoint, at least one.
            words: (len(matchers), ceil(vocab_size / 32)), written over.
        """
        vocabulary = matchers[0].vocabulary
        assert words.shape == (len(matchers), vocabulary.num_words)
        assert words.flags.c_contiguous
        masks = words
        if vocabulary.num_backend_words > vocabulary.num_words:
            masks = np.empty((len(matchers), vocabulary.num_backend_words), np.int32)
        rows = [(matcher.backend, row) for row, matcher in enumerate(matchers)]
        width = 4 * vocabulary.num_backend_words
        self._executor.unsafe_compute_mask_ptr(rows, masks.ctypes.data, width, len(rows))
        if masks is not words:
            words[:] = masks[:, : vocabulary.num_words]
        words[:, -1] &= vocabulary.last_word
        for mask, matcher in zip(words, matchers, strict=True):
            if matcher.ignore_eos:
                _forbid(matcher.vocabulary.eos_ids, mask)


def _forbid(token_ids: Sequence[int], mask: Masks) -> None:
    """Takes tokens out of a mask, unless it has no others."""
    before = mask.copy()
    for token_id in token_ids:
        mask.view(np.uint32)[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
    if not mask.any():
        mask[:] = before
