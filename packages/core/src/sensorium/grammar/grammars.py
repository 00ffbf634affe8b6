"""``Grammars``: the compiled grammars of one checkpoint."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable

from sensorium.grammar.compiler import compile_form
from sensorium.grammar.masks import MaskMaker
from sensorium.grammar.matcher import Grammar
from sensorium.grammar.vocabulary import Vocabulary
from sensorium.structured_outputs import StructuredOutputs
from sensorium.tokenizer import Tokenizer

#: How many grammars are kept, those used last.
MAX_GRAMMARS = 128


class Grammars:
    """Compiles forms and keeps the grammars; any number of threads may use it at once.

    Nothing is loaded before the first form comes, which then takes half a second: call it where
    nobody waits for other answers.

    Args:
        eos_ids: tokens that end a text.
        vocab_size: logits of one row.
    """

    def __init__(self, tokenizer: Tokenizer, eos_ids: Iterable[int], vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._eos_ids = tuple(eos_ids)
        self._vocab_size = vocab_size
        self._vocabulary: Vocabulary | None = None
        self._grammars: OrderedDict[StructuredOutputs, Grammar] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, form: StructuredOutputs) -> Grammar:
        """The grammar of a form, from the cache if it is there.

        Raises:
            LimitError, RequestError: it is too large, faulty, can't be expressed, or allows
                nothing.
            UnsupportedError: the library isn't there, or doesn't understand the tokenizer.
        """
        known = self.find(form)
        if known is not None:
            return known
        vocabulary = self.vocabulary()
        grammar = Grammar(vocabulary, compile_form(form, vocabulary))
        with self._lock:
            self._grammars[form] = grammar
            while len(self._grammars) > MAX_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def find(self, form: StructuredOutputs) -> Grammar | None:
        """The grammar of a form if it is known, without compiling anything."""
        with self._lock:
            if form in self._grammars:
                self._grammars.move_to_end(form)
            return self._grammars.get(form)

    def vocabulary(self) -> Vocabulary:
        """The checkpoint's tokens; errors as ``compile``."""
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = Vocabulary(self._tokenizer, self._eos_ids, self._vocab_size)
            return self._vocabulary

    def mask_maker(self, num_threads: int) -> MaskMaker:
        """What makes masks of its matchers; errors as ``compile``."""
        return MaskMaker(self.vocabulary(), num_threads)
