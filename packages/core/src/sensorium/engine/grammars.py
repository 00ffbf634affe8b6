"""``EngineGrammars``: the grammars of an engine's requests, each at its current state.

It connects ``Constraints``, which reports the tokens of each answer, with ``sensorium.grammar``,
which knows nothing of requests.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from sensorium.errors import EngineClosedError, Failure
from sensorium.grammar import Grammars, MaskMaker, Matcher
from sensorium.grammar.masks import Masks as Words
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import EngineRequest

_MOST_MASK_THREADS = 8
_COMPILE_THREADS = 2


class EngineGrammars:
    """As ``constraints.RequestGrammars``. All but ``compile`` is used from the engine's thread.

    Args:
        forces: tokens that a grammar leaves no choice of are not sampled. Requests that restrict
            tokens in other ways (bad words, biases, allowed tokens), or whose prompt must be
            computed in any case, sample all tokens.
    """

    def __init__(self, grammars: Grammars, *, forces: bool) -> None:
        self._grammars = grammars
        self._forces = forces
        self._matchers: dict[str, Matcher] = {}
        self._most_forced: dict[str, int] = {}
        self._maker: MaskMaker | None = None
        # Starts its threads when it first needs them.
        self._threads = ThreadPoolExecutor(_COMPILE_THREADS, "sensorium-grammar")

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        """Compiles a form in a thread of its own, so that ``start`` finds it; from any thread.

        The future fails as ``Grammars.compile``.
        """
        try:
            return self._threads.submit(self._compile, form, eos_ids)
        except RuntimeError:  # shut down
            refused: Future[None] = Future()
            refused.set_exception(EngineClosedError("The engine was closed."))
            return refused

    def _compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> None:
        self._grammars.compile(form, eos_ids)

    def start(self, request: EngineRequest) -> bool:
        """Takes in a request before its first token; False: it has no grammar.

        Raises:
            SensoriumError: as ``Grammars.compile``.
        """
        sampling = request.sampling
        if sampling.structured_outputs is None or request.embeds:
            return False
        grammar = self._grammars.compile(sampling.structured_outputs, request.eos_ids)
        self._matchers[request.request_id] = grammar.matcher(ignore_eos=sampling.ignore_eos)
        samples_all = (
            not self._forces
            or bool(sampling.bad_words)
            or bool(sampling.logit_bias)
            or sampling.allowed_token_ids is not None
            or sampling.prompt_logprobs is not None
        )
        most = 0 if samples_all else request.max_tokens
        self._most_forced[request.request_id] = most
        return True

    def accept(self, request_id: str, token_ids: Sequence[int]) -> None:
        """Goes on behind these tokens.

        Raises:
            RequestError: the request can't go on.
        """
        self._matchers[request_id].accept(token_ids)

    def forced(self, request_id: str) -> tuple[int, ...]:
        """The tokens that must follow now; () if there is a choice, or if they are to be
        sampled."""
        return self._matchers[request_id].forced(self._most_forced[request_id])

    def is_complete(self, request_id: str) -> bool:
        """Whether nothing can follow."""
        return self._matchers[request_id].is_complete

    def fill(self, request_ids: Sequence[str], words: Words) -> Mapping[str, Failure]:
        """Writes down what may follow now, a row for each request.

        Returns:
            Request id → the failure, for requests that can't go on.
        """
        if self._maker is None:
            num_threads = max(1, min(_MOST_MASK_THREADS, (os.cpu_count() or 1) // 2))
            self._maker = MaskMaker(num_threads)
        matchers = [self._matchers[request_id] for request_id in request_ids]
        self._maker.fill(matchers, words)
        return {
            request_id: Failure.of(matcher.failure)
            for request_id, matcher in zip(request_ids, matchers, strict=True)
            if matcher.has_failed
        }

    def forget(self, request_id: str) -> None:
        """The request has ended."""
        del self._matchers[request_id], self._most_forced[request_id]

    def close(self) -> None:
        """Stops compiling."""
        self._threads.shutdown(wait=False)
