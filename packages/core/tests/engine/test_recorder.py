"""The recorder: each update once, ends by their reasons."""

from __future__ import annotations

from sensorium.engine.recorder import Recorder
from sensorium.scheduler import Scheduler, SchedulerConfig
from sensorium.stats import Histogram
from sensorium.types import RequestUpdate

CONFIG = SchedulerConfig(
    page_size=4,
    num_pages=64,
    max_num_batched_tokens=16,
    max_num_seqs=8,
    max_model_len=128,
    prefix_caching=True,
    chunked_prefill=True,
    encoder_cache_bytes=100,
)


def test_updates_are_counted() -> None:
    recorder = Recorder()
    recorder.saw([RequestUpdate("a", (1, 2)), RequestUpdate("b", (3,), num_encoder_hits=9)])
    recorder.saw(
        [
            RequestUpdate("a", (4,), finish_reason="stop", num_encoded_items=2),
            RequestUpdate("b", finish_reason="abort", num_encoder_hits=9),
        ]
    )
    recorder.took_step(0.002)
    recorder.took_step(0.5)
    found = recorder.snapshot(Scheduler(CONFIG).stats, {"scent": Histogram()})
    assert found.num_generated_tokens == 4
    assert found.num_ended == {"stop": 1, "abort": 1}
    assert (found.num_encoded_items, found.num_encoder_hits) == (2, 9), "counted at the end alone"
    assert (found.step_s.count, found.step_s.total) == (2, 0.502)
    assert (found.num_kv_pages, found.kv_page_tokens, found.encoder_cache_bytes) == (64, 4, 100)
    assert found.encode_s == {"scent": Histogram()}
