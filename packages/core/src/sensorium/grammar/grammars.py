"""``Grammars``: the compiled grammars of one checkpoint."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import suppress

from sensorium.errors import UnsupportedError
from sensorium.grammar.compiler import compile_form
from sensorium.grammar.matcher import Grammar
from sensorium.grammar.vocabulary import Vocabulary
from sensorium.structured_outputs import StructuredOutputs
from sensorium.tokenizer import Tokenizer

#: How many grammars are kept, those used last.
MAX_GRAMMARS = 128

#: A form, and the tokens that end a text.
_Key = tuple[StructuredOutputs, frozenset[int]]


class Grammars:
    """Compiles forms and keeps the grammars; any number of threads may use it at once.

    Nothing is loaded before the first form comes, which then takes half a second or more: call
    ``compile`` from a thread on which no other answer depends.

    Args:
        vocab_size: logits of one row.
    """

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._vocabularies: dict[frozenset[int], Vocabulary] = {}
        self._grammars: OrderedDict[_Key, Grammar] = OrderedDict()
        self._lock = threading.Lock()
        self._loading = threading.Lock()

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Grammar:
        """The grammar of a form, from the cache if it is there.

        Args:
            eos_ids: tokens that end a text.

        Raises:
            LimitError, RequestError: it is too large, faulty, can't be expressed, or allows
                nothing.
            UnsupportedError: the library isn't there, or doesn't understand the tokenizer.
        """
        known = self.find(form, eos_ids)
        if known is not None:
            return known
        vocabulary = self.vocabulary(eos_ids)
        grammar = Grammar(vocabulary, compile_form(form, vocabulary))
        with self._lock:
            self._grammars[form, eos_ids] = grammar
            while len(self._grammars) > MAX_GRAMMARS:
                self._grammars.popitem(last=False)
        return grammar

    def find(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Grammar | None:
        """The grammar of a form if it is known, without compiling anything."""
        with self._lock:
            if (form, eos_ids) in self._grammars:
                self._grammars.move_to_end((form, eos_ids))
            return self._grammars.get((form, eos_ids))

    def load(self, eos_ids: frozenset[int]) -> None:
        """Reads the checkpoint's tokens before a form needs them; ignores a tokenizer that can't be
        read.

        The library holds the interpreter's lock meanwhile, for half a second or more.
        """
        with suppress(UnsupportedError):  # requests with a form get this error
            self.vocabulary(eos_ids)

    def vocabulary(self, eos_ids: frozenset[int]) -> Vocabulary:
        """The checkpoint's tokens; arguments and errors as ``compile``."""
        with self._loading:
            if eos_ids not in self._vocabularies:
                vocabulary = Vocabulary(self._tokenizer, eos_ids, self._vocab_size)
                self._vocabularies[eos_ids] = vocabulary
            return self._vocabularies[eos_ids]
