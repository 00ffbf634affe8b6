"""``Constraints``: rules that need the newest tokens on the host before the next is sampled.

    bad words   which token would complete one follows from the last tokens
    grammars    what may follow, and what must (asked of a ``RequestGrammars``)

Both become masks, which are computed while the device computes the rows that they are for. Tokens
that a grammar forces are given to the scheduler, which has them computed together. Where the step
that samples the first of them is already running, its mask allows only that token.

Keeps the answers of constrained requests only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from sensorium.errors import Failure, SensoriumError
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import Batch, Chunk, EngineRequest, Masks, StepOutput

Words = npt.NDArray[np.int32]


class RequestGrammars(Protocol):
    """The grammars of all requests that have one, each with its place in it.

    Tokens are those of the answer, in order, each told once. Where a method raises an error of
    ``sensorium.errors``, its request ends with that error's sentence, and no other does.
    """

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        """Compiles a form's grammar in the background, so that ``start`` finds it ready; from any
        thread.

        Args:
            eos_ids: tokens that end a text.

        The future fails with a ``SensoriumError`` if the grammar can't be used.
        """

    def start(self, request: EngineRequest) -> bool:
        """Takes in a request before its first token; False: it has no grammar.

        Raises:
            SensoriumError: its grammar can't be used; the request is refused.
        """

    def accept(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Goes on behind these tokens, which were sampled, or forced and then given.

        Raises:
            SensoriumError: the request can't go on.
        """

    def forced(self, request_id: str) -> tuple[int, ...]:
        """The tokens that must follow now; () if there is a choice. The caller passes them to
        ``accept`` next.

        Raises:
            SensoriumError: the request can't go on.
        """

    def is_complete(self, request_id: str) -> bool:
        """Whether nothing can follow, so that the answer ends here."""

    def fill(self, request_ids: Sequence[str], words: Words) -> Mapping[str, Failure]:
        """Writes down what may follow now.

        Args:
            words: (len(request_ids), ceil(vocab_size / 32)) as in ``Masks``, all ones.

        Returns:
            Request id → the failure, for requests that can't go on.
        """

    def forget(self, request_id: str) -> None:
        """The request has ended."""

    def close(self) -> None:
        """Stops compiling."""


@dataclass(slots=True)
class Given:
    """What follows from a step's tokens.

    Attributes:
        tokens: request id → tokens that must follow.
        complete: ids of requests whose answers end behind these.
        failed: request id → the failure, for requests that can't go on.
    """

    tokens: dict[str, tuple[int, ...]] = field(default_factory=dict)
    complete: set[str] = field(default_factory=set)
    failed: dict[str, Failure] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """A chunk whose next token can't be sampled without a mask, and its request."""

    chunk: Chunk
    of: _Constrained


class Constraints:
    """The constrained requests of one engine.

    Args:
        vocab_size: width of the logits.
        grammars: None: no request has a grammar.
    """

    def __init__(self, vocab_size: int, grammars: RequestGrammars | None = None) -> None:
        self._vocab_size = vocab_size
        self._grammars = grammars
        self._known: dict[str, _Constrained] = {}

    def start(self, request: EngineRequest) -> Given:
        """Takes in a request that may be constrained, and finds the tokens that must come first.

        Raises:
            SensoriumError: its grammar can't be used.
        """
        # A word with a token that can't be sampled is never completed.
        words = [word for word in request.bad_word_ids if max(word) < self._vocab_size]
        has_grammar = self._grammars is not None and self._grammars.start(request)
        given = Given()
        if has_grammar or words:
            constrained = _Constrained(request, words, has_grammar)
            self._known[request.request_id] = constrained
            self._force(constrained, given)
        return given

    def forget(self, request_ids: Iterable[str]) -> None:
        """Requests have ended; unknown ids are ignored."""
        if not self._known:
            return
        for request_id in request_ids:
            constrained = self._known.pop(request_id, None)
            if constrained is not None and constrained.has_grammar:
                assert self._grammars is not None
                self._grammars.forget(request_id)

    def rows_of(self, batch: Batch) -> list[Row]:
        """The chunks whose next token can't be sampled without a mask."""
        known = self._known
        if not known:
            return []
        chunks = (chunk for chunk in batch.chunks if chunk.num_rows)
        return [Row(c, known[c.request_id]) for c in chunks if c.request_id in known]

    def accept(self, rows: Sequence[Row], output: StepOutput) -> Given:
        """Takes in the tokens of a step that had these rows, and finds those that must follow."""
        given = Given()
        if not rows:
            return given
        tokens = {sampled.request_id: sampled.token_ids for sampled in output.tokens}
        for row in rows:
            request_id = row.chunk.request_id
            num_new = row.chunk.stop + 1 - row.of.num_tokens
            if self._goes_on(row) and request_id in tokens and num_new > 0:
                self._go_on(row.of, tokens[request_id][-num_new:], given)
        return given

    def masks(self, rows: Sequence[Row]) -> tuple[Masks | None, dict[str, Failure]]:
        """The mask of each row whose request has not ended.

        Returns:
            The masks, and request id → the failure, for requests that can't go on.
        """
        rows = [row for row in rows if self._goes_on(row)]
        if not rows:
            return None, {}
        ids = tuple(row.chunk.request_id for row in rows)
        words = np.full((len(ids), -(-self._vocab_size // 32)), -1, dtype=np.int32)
        unknown: list[int] = []
        for i, row in enumerate(rows):
            token_id = row.of.token_at(row.chunk.stop)
            if token_id is None:
                unknown.append(i)
            else:
                words[i] = 0
                words[i, token_id >> 5] = _bit(token_id)
        failed = self._fill(ids, [i for i in unknown if rows[i].of.has_grammar], words)
        for i in unknown:
            for token_id in rows[i].of.banned():
                words[i, token_id >> 5] &= ~_bit(token_id)
        return Masks(ids, words), failed

    def _goes_on(self, row: Row) -> bool:
        """Whether its request has not ended; another may have its id by now."""
        return self._known.get(row.chunk.request_id) is row.of

    def _fill(self, ids: Sequence[str], rows: list[int], words: Words) -> dict[str, Failure]:
        if not rows:
            return {}
        assert self._grammars is not None
        filled = words[rows]
        failed = self._grammars.fill([ids[i] for i in rows], filled)
        words[rows] = filled
        return dict(failed)

    def _go_on(self, constrained: _Constrained, token_ids: tuple[int, ...], given: Given) -> None:
        """Notes a request's new tokens, and the tokens that its grammar forces after them."""
        constrained.answer += token_ids
        if not constrained.has_grammar:
            return
        assert self._grammars is not None
        request_id = constrained.request.request_id
        try:
            self._grammars.accept(request_id, token_ids)
            self._force(constrained, given)
        except SensoriumError as error:
            given.failed[request_id] = Failure.of(error)

    def _force(self, constrained: _Constrained, given: Given) -> None:
        """Notes the tokens that a grammar forces now, and whether nothing can follow them."""
        if not constrained.has_grammar:
            return
        assert self._grammars is not None
        request_id = constrained.request.request_id
        forced = self._grammars.forced(request_id)
        if forced:
            self._grammars.accept(request_id, forced)
            constrained.answer += forced
            given.tokens[request_id] = forced
        if self._grammars.is_complete(request_id):
            given.complete.add(request_id)


class _Constrained:
    """A request, and its answer as far as the host knows it."""

    def __init__(
        self, request: EngineRequest, bad_words: Sequence[tuple[int, ...]], has_grammar: bool
    ) -> None:
        self.request = request
        self.bad_words = bad_words
        self.has_grammar = has_grammar
        self.answer: list[int] = []

    @property
    def num_tokens(self) -> int:
        """Known tokens, the prompt's included."""
        return len(self.request.token_ids) + len(self.answer)

    def token_at(self, place: int) -> int | None:
        """The token at a place behind the prompt, if it is known."""
        index = place - len(self.request.token_ids)
        return self.answer[index] if index < len(self.answer) else None

    def banned(self) -> list[int]:
        """The tokens that would complete a bad word."""
        answer = self.answer
        found = []
        for word in self.bad_words:
            begun = len(word) - 1
            if begun <= len(answer) and tuple(answer[len(answer) - begun :]) == word[:-1]:
                found.append(word[-1])
        return found


def _bit(token_id: int) -> np.int32:
    """The bit of a token in its word."""
    return np.uint32(1 << (token_id & 31)).astype(np.int32)
