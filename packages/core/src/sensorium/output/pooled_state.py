"""``PooledState``: the frontend's side of one request to embed."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from sensorium.errors import RequestError
from sensorium.outputs import PoolingOutput, PoolingRequestOutput, RequestMetrics
from sensorium.types import Pooled, RequestUpdate


class PooledState:
    """Waits for a prompt's vector.

    Args:
        child_id: the id by which the engine knows its sequence.
        normalizes: the vector is divided by its length (a vector of zeros stays one).
    """

    def __init__(
        self,
        *,
        request_id: str,
        prompt: str | None,
        prompt_token_ids: tuple[int, ...],
        metrics: RequestMetrics,
        child_id: str,
        normalizes: bool = False,
    ) -> None:
        self.request_id = request_id
        self.child_ids = (child_id,)
        self.finished = False
        self.only_final = True
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        self._metrics = metrics
        self._normalizes = normalizes
        self._pooled: Pooled = ()

    def apply(self, update: RequestUpdate) -> list[str]:
        """Takes an update; as ``RequestState.apply``.

        Raises:
            RequestError: the request was aborted, and has no vector.
        """
        if update.finish_reason == "abort":
            self.finished = True
            raise aborted(self.request_id)
        if update.pooled is not None:
            self._pooled = _unit(update.pooled) if self._normalizes else update.pooled
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


def aborted(request_id: str) -> RequestError:
    """The error of a request to embed that was aborted."""
    return RequestError(f"The request {request_id} was aborted.")


def _unit(values: Pooled) -> Pooled:
    length = math.sqrt(sum(value * value for value in values)) or 1.0
    return tuple(value / length for value in values)
