"""Grammars that are drawn by lot: what may and what must follow is a function of the answer so far.

So what a request must answer is known without running it, whatever is computed together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from random import Random

from sensorium.engine.constraints import Words
from sensorium.errors import RequestError
from sensorium.structured_outputs import StructuredOutputs
from sensorium.types import EngineRequest


@dataclass(frozen=True)
class Rule:
    """One grammar.

    Args:
        vocab_size: tokens are 0 … vocab_size - 1.
        longest: of the runs that it forces, in tokens.
        fails_at: it breaks down once the answer has so many tokens.
        ends_at: once the answer has so many tokens, only token 0 may follow.
        completes_at: once the answer has so many tokens, nothing may follow.
    """

    seed: int
    vocab_size: int
    longest: int = 5
    fails_at: int | None = None
    ends_at: int | None = None
    completes_at: int | None = None

    def forced(self, answer: Sequence[int]) -> tuple[int, ...]:
        """What must follow: nothing, most often."""
        lot = self._lot("forced", answer)
        if self._is_over(answer) or lot.random() < 0.6:
            return ()
        count = lot.randint(1, self.longest)
        if self.completes_at is not None:
            count = min(count, self.completes_at - len(answer))
        return tuple(lot.randrange(self.vocab_size) for _ in range(count))

    def allowed(self, answer: Sequence[int]) -> list[int]:
        """What may follow, one token at least."""
        if self._is_over(answer):
            return [0]
        lot = self._lot("allowed", answer)
        count = lot.choice([1, 2, self.vocab_size])
        return sorted(lot.sample(range(self.vocab_size), min(count, self.vocab_size)))

    def breaks(self, answer: Sequence[int]) -> bool:
        """Whether nothing can be said any more."""
        return self.fails_at is not None and len(answer) >= self.fails_at

    def completes(self, answer: Sequence[int]) -> bool:
        """Whether the answer is complete."""
        return self.completes_at is not None and len(answer) >= self.completes_at

    def _is_over(self, answer: Sequence[int]) -> bool:
        return self.completes(answer) or (self.ends_at is not None and len(answer) >= self.ends_at)

    def _lot(self, what: str, answer: Sequence[int]) -> Random:
        return Random(f"{self.seed} {what} {list(answer)}")


class StandInGrammars:
    """As ``RequestGrammars``; it checks that each token is told once, and none that it forbade.

    Args:
        rules: request id → its grammar.

    Attributes:
        answers: request id → its tokens so far.
        num_forced: tokens that were forced.
    """

    def __init__(self, rules: Mapping[str, Rule]) -> None:
        self.rules = rules
        self.answers: dict[str, list[int]] = {}
        self._due: dict[str, tuple[int, ...]] = {}
        self.num_forced = 0

    def compile(self, form: StructuredOutputs, eos_ids: frozenset[int]) -> Future[None]:
        """There is nothing to get ready."""
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def close(self) -> None:
        """Nor to end."""

    def start(self, request: EngineRequest) -> bool:
        """Notes it, if it has a rule."""
        if request.request_id not in self.rules:
            return False
        assert request.request_id not in self.answers, "a request was started twice"
        self.answers[request.request_id] = []
        self._due[request.request_id] = ()
        return True

    def accept(self, request_id: str, token_ids: Sequence[int]) -> None:
        """One sampled token that was allowed, or what was forced."""
        answer, rule = self.answers[request_id], self.rules[request_id]
        if self._due[request_id]:
            assert tuple(token_ids) == self._due[request_id], "not what was forced"
            self._due[request_id] = ()
        else:
            [token] = token_ids
            assert token in rule.allowed(answer), "a token that the grammar forbids"
        answer += token_ids
        if rule.breaks(answer):
            raise RequestError("The grammar broke down.")

    def forced(self, request_id: str) -> tuple[int, ...]:
        """By its rule."""
        assert not self._due[request_id], "what was forced hasn't been told"
        self._due[request_id] = self.rules[request_id].forced(self.answers[request_id])
        self.num_forced += len(self._due[request_id])
        return self._due[request_id]

    def is_complete(self, request_id: str) -> bool:
        """By its rule."""
        assert not self._due[request_id], "what was forced hasn't been told"
        return self.rules[request_id].completes(self.answers[request_id])

    def fill(self, request_ids: Sequence[str], words: Words) -> Mapping[str, str]:
        """By their rules."""
        assert len(words) == len(request_ids)
        words[:] = 0
        for row, request_id in zip(words.view("uint32"), request_ids, strict=True):
            assert not self._due[request_id]
            for token in self.rules[request_id].allowed(self.answers[request_id]):
                row[token // 32] |= 1 << token % 32
        return {}

    def forget(self, request_id: str) -> None:
        """It must be known."""
        del self.answers[request_id], self._due[request_id]
