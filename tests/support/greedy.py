"""The rule for greedy tokens: transformers' best token at every position, or a tie of its two best.

The reference reads the prompt with the engine's own answer behind it in one pass, so every
position is compared, also those behind a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import torch

#: Two best logits of the reference that lie this close may be exchanged.
TIE = 1e-4


@dataclass
class Remembered:
    """A reference's logits by what it was given, each computed once.

    Engines with other options give the same answers, so most of their comparisons find them here.
    """

    known: dict[Hashable, torch.Tensor] = field(default_factory=dict)

    def get(self, given: Hashable, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        """What ``compute`` makes of ``given``, which must name everything that it depends on."""
        if given not in self.known:
            self.known[given] = compute()
        return self.known[given]


@dataclass
class Comparison:
    """What was compared so far; printed by the tests."""

    num_tokens: int = 0
    ties: list[float] = field(default_factory=list)

    def add(self, logits: torch.Tensor, answer: Sequence[int], label: str) -> None:
        """Compares one answer.

        Args:
            logits: (len(answer), vocabulary): the reference's, each row before its token.
        """
        assert len(logits) == len(answer)
        best = logits.topk(2, dim=-1)
        for i, token in enumerate(answer):
            self.num_tokens += 1
            if token == int(best.indices[i, 0]):
                continue
            gap = float(best.values[i, 0] - logits[i, token])
            assert gap <= TIE, f"{label}, token {i}: {token} lies {gap} below the reference's best"
            self.ties.append(gap)

    def report(self) -> str:
        """How many tokens were compared, and how many differed at a tie."""
        return f"{self.num_tokens} tokens compared, {len(self.ties)} differed at a tie"
