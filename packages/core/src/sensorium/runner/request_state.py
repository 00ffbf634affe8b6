"""``RunningRequest``: what the runner remembers of a request between steps."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from sensorium.types import Chunk, EngineRequest


class RunningRequest:
    """A request with the tokens generated so far.

    Generated tokens come back in chunks, also after preemption, so nothing else needs to be
    remembered: everything that sampling depends on follows from them.
    """

    def __init__(self, request: EngineRequest, engine_seed: int) -> None:
        self.request = request
        self.generated: list[int] = []
        self._seen: Tensor | None = None
        own = request.sampling.seed
        self._seed = f"request {own}" if own is not None else f"{engine_seed} {request.request_id}"

    def take(self, chunk: Chunk) -> None:
        """Notes the generated tokens among a chunk's; doing so twice changes nothing."""
        prompt = len(self.request.token_ids)
        first = max(prompt, chunk.start)
        if chunk.stop > first:
            self.generated[first - prompt :] = chunk.token_ids[first - chunk.start :]

    def step_seed(self) -> int:
        """A seed for the next token alone, the same however often it is computed again."""
        text = f"{self._seed} {len(self.generated)}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1

    def seen_mask(self, vocab_size: int, device: torch.device) -> Tensor:
        """(vocab_size,) bool: tokens of prompt and answer."""
        if self._seen is None:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(self.request.token_ids, device=device)] = True
        self._seen[torch.tensor(self.generated, dtype=torch.long, device=device)] = True
        return self._seen

    def output_counts(self, vocab_size: int, device: torch.device) -> Tensor:
        """(vocab_size,) float32: how often each token occurs in the answer."""
        ids = torch.tensor(self.generated, dtype=torch.long, device=device)
        return torch.bincount(ids, minlength=vocab_size).float()
