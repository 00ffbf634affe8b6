"""``RunningRequest``: the runner's state of a request between steps."""

from __future__ import annotations

import hashlib

from torch import Tensor

from sensorium.types import Chunk, EngineRequest


class RunningRequest:
    """A request with the tokens generated so far.

    Generated tokens come back in chunks, also after preemption, so nothing else needs to be
    remembered: everything that sampling depends on follows from them.

    Attributes:
        request: as it came.
        slot: its row in the tables on the device.
        is_greedy: whether its most probable token is always taken.
        needs_counts: whether what is sampled next depends on how often each token has occurred.
        has_bias: whether its logits get the same addition at each step.
        edits_logits: whether bias, bans or penalties may change its logits. (``bad_words`` come as
            masks: only the host can tell what they forbid.)
        is_plain: whether its token is the best of the raw logits, and nothing else is asked for.
        generated: its new tokens; ``PENDING`` where only the device knows them.
        num_counted: how many of them ``TokenCounts`` has counted.
        bias: (vocab_size,) float32 on the device, once it was needed: what is added to its logits
            at each step.
        failure: why the request can't continue, once a part of it has failed.
    """

    def __init__(self, request: EngineRequest, engine_seed: int, slot: int = 0) -> None:
        self.request = request
        self.slot = slot
        self.generated: list[int] = []
        self.num_counted = 0
        self.bias: Tensor | None = None
        self.failure: str | None = None
        self.media_end = max((span.end for span in request.spans), default=0)
        params = request.sampling
        self.is_greedy = params.greedy
        self.needs_counts = bool(
            params.repetition_penalty not in (None, 1.0)
            or params.presence_penalty
            or params.frequency_penalty
        )
        self.has_bias = bool(params.logit_bias or params.allowed_token_ids)
        self.edits_logits = bool(self.needs_counts or self.has_bias or params.min_tokens)
        self.is_plain = self.is_greedy and not self.edits_logits and params.logprobs is None
        own = params.seed
        self._seed = f"request {own}" if own is not None else f"{engine_seed} {request.request_id}"

    def take(self, chunk: Chunk) -> None:
        """Records the generated tokens of a chunk; recording them again changes nothing."""
        prompt = len(self.request.token_ids)
        first = max(prompt, chunk.start)
        if chunk.stop > first:
            self.generated[first - prompt :] = chunk.token_ids[first - chunk.start :]

    def step_seed(self) -> int:
        """A seed for the next token only, the same if the token is computed again."""
        text = f"{self._seed} {len(self.generated)}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1
