"""``RunningRequest``: what the runner remembers of a request between steps.

Everything that sampling depends on follows from the request and from the tokens of its
chunks, so that a request that was preempted goes on as if it hadn't been.
"""

from __future__ import annotations

import hashlib
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from sensorium.types import Chunk, EngineRequest, MediaSpan, Positions


class RunningRequest:
    """One request on the device.

    Args:
        own_seed: stands for the request's seed where it has none.

    Attributes:
        request: as it was started.
        generated: tokens behind the prompt that chunks have brought so far.
    """

    def __init__(self, request: EngineRequest, own_seed: str) -> None:
        seed = request.sampling.seed
        self.request = request
        self.generated: list[int] = []
        self._seed = own_seed if seed is None else f"request {seed}"
        self._seen: Tensor | None = None

    def take(self, chunk: Chunk) -> None:
        """Notes the generated tokens among a chunk's."""
        prompt_len = len(self.request.token_ids)
        new_from = max(prompt_len, chunk.start)
        if chunk.stop > new_from:
            assert new_from - prompt_len <= len(self.generated), "a chunk left tokens out"
            self.generated[new_from - prompt_len :] = chunk.token_ids[new_from - chunk.start :]

    def positions(self, start: int, stop: int, num_axes: int) -> Positions:
        """(num_axes, stop - start): the prompt's own, then index + delta."""
        request = self.request
        index = np.arange(start, stop, dtype=np.int64)
        result = np.broadcast_to(index, (num_axes, stop - start)).copy()
        prompt_len = len(request.token_ids)
        in_prompt = max(0, min(stop, prompt_len) - start)
        if request.positions is not None:
            result[:, :in_prompt] = request.positions[:, start : start + in_prompt]
        result[:, in_prompt:] += request.position_delta
        return result

    def noise_seed(self) -> int:
        """The seed of the next token's noise: a hash of the request's seed and the count so far."""
        text = f"{self._seed}, token {len(self.generated)}"
        digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") >> 1

    def seen(self, vocab_size: int, device: torch.device) -> Tensor:
        """(vocab_size,) bool: tokens of prompt and output; not those that media replace."""
        if self._seen is None:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(self._prompt_ids, dtype=torch.int64, device=device)] = True
        self._seen[torch.tensor(self.generated, dtype=torch.int64, device=device)] = True
        return self._seen

    @cached_property
    def _prompt_ids(self) -> list[int]:
        replaced = np.zeros(len(self.request.token_ids), dtype=bool)
        for span in self.request.spans:
            replaced[span.offset : span.end] |= span_mask(span)
        kept = np.asarray(self.request.token_ids, dtype=np.int64)[~replaced]
        return [int(token_id) for token_id in np.unique(kept)]


def span_mask(span: MediaSpan) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """(length,) bool: which of the span's tokens an embedding row replaces."""
    if span.is_embed is None:
        return np.ones(span.length, dtype=bool)
    return np.frombuffer(span.is_embed, dtype=np.uint8).astype(bool)
