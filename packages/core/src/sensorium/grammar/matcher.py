"""``Matcher``: the state of one answer in its grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sensorium.errors import RequestError
from sensorium.grammar.vocabulary import Vocabulary

if TYPE_CHECKING:
    from llguidance import LLMatcher


class Grammar:
    """A compiled grammar, from which any number of answers begin; any thread may use it."""

    def __init__(self, vocabulary: Vocabulary, start: LLMatcher) -> None:
        self.vocabulary = vocabulary
        self._start = start

    def matcher(self, *, ignore_eos: bool = False) -> Matcher:
        """A matcher for a new answer.

        Args:
            ignore_eos: tokens that end a text are not allowed where the grammar could go on.
        """
        return Matcher(self.vocabulary, self._start.deep_copy(), ignore_eos=ignore_eos)


class Matcher:
    """One answer in its grammar. Used from one thread at a time.

        allowed by a mask   accept(tokens) ─→ is_complete? forced(…)? ─→ the next mask

    Attributes:
        backend: the library's matcher, for ``MaskMaker``.
        vocabulary: the checkpoint's tokens.
        ignore_eos: as in ``Grammar.matcher``.
    """

    __slots__ = ("_num_accepted", "backend", "ignore_eos", "vocabulary")

    def __init__(self, vocabulary: Vocabulary, backend: LLMatcher, *, ignore_eos: bool) -> None:
        self.backend = backend
        self.ignore_eos = ignore_eos
        self.vocabulary = vocabulary
        self._num_accepted = 0

    def accept(self, token_ids: Sequence[int]) -> None:
        """Takes tokens of the answer, which must be allowed one after another.

        Raises:
            RequestError: the grammar has become too complex here to go on with.
        """
        if self.backend.consume_tokens(list(token_ids)):
            self._num_accepted += len(token_ids)
            return
        raise self.failure

    @property
    def failure(self) -> RequestError:
        """Why it can't go on: the form that the caller asked for is too complex here."""
        return RequestError(
            f"After {self._num_accepted} tokens of the answer its grammar can't go on within the "
            f"limits ({self.backend.stop_reason()})."
        )

    @property
    def has_failed(self) -> bool:
        """Whether it can't go on, so that its mask means nothing."""
        return self.backend.is_error()

    @property
    def is_accepting(self) -> bool:
        """Whether the answer could end here."""
        return self.backend.is_accepting()

    @property
    def is_complete(self) -> bool:
        """Whether the answer must end here, or has: nothing can follow."""
        return self.backend.is_stopped()

    def forced(self, most: int) -> tuple[int, ...]:
        """The tokens that must follow, where the grammar leaves no choice; ``most`` at most.

        They are those into which the tokenizer would divide the forced text.
        """
        if most <= 0:
            return ()
        found: list[int] = []
        for token_id in self.backend.compute_ff_tokens()[:most]:
            if token_id >= self.vocabulary.size:
                break
            found.append(token_id)
        return tuple(found)
