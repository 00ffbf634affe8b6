"""``Recorder``: counts the step loop's updates and measures its steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from sensorium.scheduler import SchedulerStats
from sensorium.stats import CoreStats, Histogram, HistogramRecorder
from sensorium.types import RequestUpdate


class Recorder:
    """Used on the loop's thread. It sees every update once, and costs little a step."""

    def __init__(self) -> None:
        self._step_s = HistogramRecorder()
        self._num_generated_tokens = 0
        self._num_encoder_hits = 0
        self._num_encoded_items = 0
        self._num_ended: Counter[str] = Counter()

    def took_step(self, seconds: float) -> None:
        """A step has ended."""
        self._step_s.add(seconds)

    def saw(self, updates: Sequence[RequestUpdate]) -> None:
        """Updates are on their way out."""
        num_new = 0
        for update in updates:
            num_new += len(update.new_token_ids)
            if update.finish_reason is not None:
                self._num_ended[update.finish_reason] += 1
                self._num_encoder_hits += update.num_encoder_hits
                self._num_encoded_items += update.num_encoded_items
        self._num_generated_tokens += num_new

    def snapshot(self, scheduler: SchedulerStats, encode_s: Mapping[str, Histogram]) -> CoreStats:
        """Everything at this moment, with what the scheduler counts."""
        return CoreStats(
            num_running=scheduler.num_running,
            num_waiting=scheduler.num_waiting,
            num_kv_pages=scheduler.num_pages,
            num_used_kv_pages=scheduler.num_used_pages,
            kv_page_tokens=scheduler.page_size,
            encoder_cache_bytes=scheduler.encoder_cache_bytes,
            encoder_used_bytes=scheduler.encoder_used_bytes,
            encoder_pinned_bytes=scheduler.encoder_pinned_bytes,
            num_prompt_tokens=scheduler.num_prefix_queries,
            num_prefix_hits=scheduler.num_prefix_hits,
            num_generated_tokens=self._num_generated_tokens,
            num_preemptions=scheduler.num_preemptions,
            num_encoder_hits=self._num_encoder_hits,
            num_encoded_items=self._num_encoded_items,
            num_ended=dict(self._num_ended),
            step_s=self._step_s.snapshot(),
            encode_s=encode_s,
        )
