"""``PooledState``: the frontend's side of one request to embed."""

from __future__ import annotations

import time
from dataclasses import replace

from sensorium.outputs import PoolingOutput, PoolingRequestOutput, RequestMetrics
from sensorium.types import Pooled, RequestUpdate


class PooledState:
    """Waits for a prompt's vector.

    Args:
        child_id: the id by which the engine knows its sequence.
    """

    def __init__(
        self,
        *,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: tuple[int, ...],
        metrics: RequestMetrics,
        child_id: str,
    ) -> None:
        self.request_id = request_id
        self.child_ids = (child_id,)
        self.finished = False
        self.only_final = True
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        self._metrics = metrics
        self._pooled: Pooled = ()

    def apply(self, update: RequestUpdate) -> list[str]:
        """Takes an update; as ``RequestState.apply``."""
        if update.pooled is not None:
            self._pooled = update.pooled
        if update.finish_reason is not None:
            self.finished = True
            self._metrics = replace(
                self._metrics,
                first_scheduled_s=update.first_scheduled_s,
                finished_s=time.monotonic(),
                num_encoder_hits=update.num_encoder_hits,
                num_encoded_items=update.num_encoded_items,
                num_cached_tokens=update.num_cached_tokens,
                num_preemptions=update.num_preemptions,
            )
        return []

    def output(self) -> PoolingRequestOutput:
        """The request as it stands."""
        return PoolingRequestOutput(
            request_id=self.request_id,
            prompt=self._prompt,
            prompt_token_ids=self._prompt_token_ids,
            outputs=PoolingOutput(self._pooled),
            finished=self.finished,
            num_cached_tokens=self._metrics.num_cached_tokens,
            metrics=self._metrics,
        )
