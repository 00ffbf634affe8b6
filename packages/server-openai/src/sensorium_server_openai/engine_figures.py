"""``engine_families``: what ``AsyncEngine.stats()`` says, as Prometheus' families.

The names are vLLM's where it has the figure; times of media, by kind, are ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from sensorium.stats import EngineStats, Histogram

PREFIX = "sensorium:"


def engine_families(stats: EngineStats, model_name: str) -> Iterator[Metric]:
    """One family for each figure, labelled with the model (and the kind of media)."""
    for name, text, value in _gauges(stats):
        gauge = GaugeMetricFamily(PREFIX + name, text, labels=["model_name"])
        gauge.add_metric([model_name], value)
        yield gauge
    for name, text, count in _counters(stats):
        counter = CounterMetricFamily(PREFIX + name, text, labels=["model_name"])
        counter.add_metric([model_name], count)
        yield counter
    ended = CounterMetricFamily(
        PREFIX + "sequences_ended",
        "Sequences that ended, by reason.",
        labels=["model_name", "finished_reason"],
    )
    for reason, count in stats.num_ended.items():
        ended.add_metric([model_name, reason], count)
    yield ended
    yield histogram_family("step_seconds", "One step of the engine.", {(model_name,): stats.step_s})
    yield from _media(stats, model_name)
    sizes = {"block_size": stats.kv_page_tokens, "num_gpu_blocks": stats.num_kv_pages}
    config = InfoMetricFamily(PREFIX + "cache_config", "The KV cache.", labels=["model_name"])
    config.add_metric([model_name], {name: str(size) for name, size in sizes.items()})
    yield config


def _gauges(stats: EngineStats) -> Iterator[tuple[str, str, float]]:
    yield "num_requests_running", "Sequences that run.", stats.num_running
    yield "num_requests_waiting", "Sequences that wait.", stats.num_waiting
    unfinished = stats.num_unfinished_requests
    yield "num_requests_unfinished", "Requests being prepared, waiting or running.", unfinished
    used = stats.num_used_kv_pages
    yield "kv_cache_usage_perc", "Share of the KV cache in use.", _share(used, stats.num_kv_pages)
    yield (
        "encoder_cache_usage_perc",
        "Share of the encoder cache in use.",
        _share(stats.encoder_used_bytes, stats.encoder_cache_bytes),
    )
    cache = stats.processor_cache
    yield (
        "mm_cache_usage_perc",
        "Share of the cache of processed media in use.",
        _share(cache.num_bytes, cache.max_bytes),
    )
    yield "kv_cache_pages", "Pages of the KV cache.", stats.num_kv_pages
    yield "kv_cache_used_pages", "Pages that running sequences hold.", stats.num_used_kv_pages
    yield "kv_cache_page_tokens", "Tokens of one page.", stats.kv_page_tokens
    yield "encoder_cache_max_bytes", "What embeddings may take.", stats.encoder_cache_bytes
    yield "encoder_cache_used_bytes", "What embeddings take.", stats.encoder_used_bytes
    yield (
        "encoder_cache_pinned_bytes",
        "What embeddings take that unfinished requests need.",
        stats.encoder_pinned_bytes,
    )
    yield "mm_cache_entries", "Processed media in the cache.", cache.num_entries
    yield "mm_cache_used_bytes", "What processed media take.", cache.num_bytes
    yield "mm_cache_max_bytes", "What processed media may take.", cache.max_bytes
    yield "engine_healthy", "1 while the engine serves.", float(stats.is_healthy)


def _counters(stats: EngineStats) -> Iterator[tuple[str, str, int]]:
    cache = stats.processor_cache
    yield "num_preemptions", "Sequences that lost their pages.", stats.num_preemptions
    yield "prefix_cache_queries", "Prompt tokens looked up.", stats.num_prompt_tokens
    yield "prefix_cache_hits", "Prompt tokens found.", stats.num_prefix_hits
    yield "mm_cache_queries", "Processed media looked up.", cache.num_hits + cache.num_misses
    yield "mm_cache_hits", "Processed media found.", cache.num_hits
    encoded = stats.num_encoder_hits + stats.num_encoded_items
    yield "encoder_cache_queries", "Embeddings needed.", encoded
    yield "encoder_cache_hits", "Embeddings found.", stats.num_encoder_hits
    generated = stats.num_generated_tokens
    yield "engine_generation_tokens", "Tokens generated, of aborted requests too.", generated
    yield "engine_restarts", "Engine processes that took a dead one's place.", stats.num_restarts


def _media(stats: EngineStats, model_name: str) -> Iterator[Metric]:
    num_bytes = CounterMetricFamily(
        PREFIX + "media_bytes", "Encoded bytes of media.", labels=["model_name", "kind"]
    )
    for kind, taken in stats.media.items():
        num_bytes.add_metric([model_name, kind], taken.num_bytes)
    yield num_bytes
    media = stats.media.items()
    by_name = {
        "media_fetch_seconds": ("Getting an item's bytes.", {k: m.fetch_s for k, m in media}),
        "media_decode_seconds": ("Decoding an item.", {k: m.decode_s for k, m in media}),
        "media_process_seconds": ("Making features.", {k: m.process_s for k, m in media}),
        "media_encode_seconds": ("Encoding an item on the device.", dict(stats.encode_s)),
    }
    for name, (text, by_kind) in by_name.items():
        found: dict[tuple[str, ...], Histogram] = {
            (model_name, kind): histogram for kind, histogram in by_kind.items()
        }
        yield histogram_family(name, text, found, "kind")


def histogram_family(
    name: str, text: str, found: dict[tuple[str, ...], Histogram], *labels: str
) -> Metric:
    """A family of histograms: values of ``model_name`` and ``labels`` → the histogram."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=["model_name", *labels])
    for values, histogram in found.items():
        buckets: list[tuple[str, float]] = []
        below = 0
        for edge, count in zip([*histogram.edges, float("inf")], histogram.counts, strict=True):
            below += count
            buckets.append(("+Inf" if edge == float("inf") else str(edge), below))
        family.add_metric(list(values), buckets=buckets, sum_value=histogram.total)
    return family


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
