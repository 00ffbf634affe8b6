"""``MaskMaker``: masks over the vocabulary for the sequences of one step.

A mask has a bit for each token, 1 where it is allowed: bit ``i % 32`` of 32-bit word ``i // 32``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sensorium.grammar.library import llguidance
from sensorium.grammar.matcher import Matcher
from sensorium.grammar.vocabulary import Vocabulary

Masks = npt.NDArray[np.int32]
ALL = -1


class MaskMaker:
    """Makes masks, several at once without the interpreter's lock. Used from one thread.

    Args:
        num_threads: at least 1; of the library's own.
    """

    def __init__(self, vocabulary: Vocabulary, num_threads: int) -> None:
        self._vocabulary = vocabulary
        self._executor = llguidance().LLExecutor(num_threads)
        self._eos = np.array(vocabulary.eos_ids)
        # Behind the last token of the logits a word has bits that stand for nothing.
        used = vocabulary.size % 32
        self._last = np.int32(ALL if used == 0 else (1 << used) - 1)

    def make(self, matchers: Sequence[Matcher | None]) -> Masks:
        """(len(matchers), ceil(vocab_size / 32)) int32; all ones where there is no matcher.

        A matcher that fails here says so (``has_failed``), and its mask means nothing.
        """
        vocabulary = self._vocabulary
        masks = np.full((len(matchers), vocabulary.num_backend_words), ALL, np.int32)
        wanted = [(m.backend, row) for row, m in enumerate(matchers) if m is not None]
        if wanted:
            self._executor.unsafe_compute_mask_ptr(
                wanted, masks.ctypes.data, 4 * vocabulary.num_backend_words, len(matchers)
            )
        for row, matcher in enumerate(matchers):
            if matcher is not None and matcher.ignore_eos:
                self._forbid_eos(masks[row])
        if vocabulary.num_backend_words > vocabulary.num_words:
            masks = np.ascontiguousarray(masks[:, : vocabulary.num_words])
        masks[:, -1] &= self._last
        return masks

    def _forbid_eos(self, mask: Masks) -> None:
        """Takes the tokens that end a text out of a mask, unless it has no others."""
        before = mask.copy()
        for token_id in self._eos.tolist():
            mask.view(np.uint32)[token_id // 32] &= np.uint32(~(1 << token_id % 32) & 0xFFFFFFFF)
        if not mask.any():
            mask[:] = before
