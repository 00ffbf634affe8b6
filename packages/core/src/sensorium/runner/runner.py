"""``Runner``: carries out batches on the device.

    drop what ended → take in what started → encode items → one forward pass → sample

It decides nothing: what is computed, kept and dropped is the scheduler's word.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sensorium.checkpoint import Checkpoint
from sensorium.config import EngineConfig
from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, EngineError
from sensorium.models.decoder import Decoder, DeepRows
from sensorium.models.load import load_model
from sensorium.plugins import EncoderContext, EncoderSpec, MediaAdapter, ModelFamily
from sensorium.runner import memory
from sensorium.runner.batch import FlatBatch, embedded_rows, flatten
from sensorium.runner.device import choose_device, choose_dtype
from sensorium.runner.embeddings import MAX_ROWS, Embeddings
from sensorium.runner.fullest_step import fullest_steps
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import sample
from sensorium.types import Batch, Chunk, EngineItem, SampledToken, StepOutput

logger = logging.getLogger("sensorium.runner")

GIB = 2**30


class Runner:
    """A loaded model with its KV cache. Used from one thread.

    Args:
        specs: every encoder of the architecture, by name.
        adapters: kind → adapter; the encoders they name are built, the others only claim
            their weights.
        options_of: an encoder's or family's plugin options.
        worst_items: makes the largest items there can be, for memory profiling on an
            accelerator.

    Attributes:
        device, dtype: what is computed on and in.
        kv_shape, num_pages: the KV cache.
        max_model_len: tokens of one sequence at most.
        embed_row_bytes: kind → bytes of one row of an item's embedding, all levels.

    Raises:
        ConfigError: the checkpoint doesn't load, or there is no room.
        PluginError: an encoder can't be built.
    """

    def __init__(
        self,
        config: EngineConfig,
        checkpoint: Checkpoint,
        family: ModelFamily,
        specs: Mapping[str, EncoderSpec],
        adapters: Mapping[str, MediaAdapter],
        *,
        options_of: Callable[[object], Mapping[str, Any]],
        worst_items: Callable[[], Sequence[EngineItem]],
    ) -> None:
        decoder = family.decoder_config(checkpoint.config)
        self.device = choose_device(config)
        self.dtype = choose_dtype(config, decoder, self.device)
        self._seed = config.seed
        self._axes = family.position_axes
        self._page_size = config.page_size
        self._requests: dict[str, RunningRequest] = {}
        context = memory.wanted_context(config, decoder)
        non_causal = any(adapter.non_causal for adapter in adapters.values())
        self._decoder = Decoder(
            decoder,
            dtype=self.dtype,
            device=self.device,
            page_size=config.page_size,
            max_model_len=context,
            non_causal=non_causal,
        ).eval()
        used = sorted({name for adapter in adapters.values() for name in adapter.encoders})
        contexts = {
            name: EncoderContext(
                architecture=checkpoint.architecture,
                config=checkpoint.config,
                processor=checkpoint.processor,
                decoder=decoder,
                dtype=self.dtype,
                device=self.device,
                plugin_options=options_of(specs[name]),
            )
            for name in used
        }
        with torch.inference_mode():
            encoders = load_model(
                checkpoint,
                family,
                self._decoder,
                specs,
                contexts,
                download_dir=config.download_dir,
                dummy_seed=config.seed if config.load_format == "dummy" else None,
            )
        levels = {name: _num_levels(specs[name], checkpoint.config, decoder) for name in used}
        self._embeddings = Embeddings(
            encoders,
            adapters,
            deep_levels=levels,
            hidden_size=decoder.hidden_size,
            dtype=self.dtype,
            device=self.device,
        )
        row_bytes = decoder.hidden_size * self.dtype.itemsize
        self.embed_row_bytes = {
            kind: row_bytes * (1 + max((levels[name] for name in adapter.encoders), default=0))
            for kind, adapter in adapters.items()
        }
        self.kv_shape = memory.kv_shape(decoder, config.page_size, self.dtype)
        kv_bytes = self._kv_bytes(config, context, worst_items)
        self.num_pages, self.max_model_len = memory.fit(config, self.kv_shape, kv_bytes, context)
        self._kv_cache = self._allocate(self.num_pages)
        logger.info(
            "%s in %s on %s: %d pages of %d tokens, context %d, attention %s",
            checkpoint.architecture,
            str(self.dtype).removeprefix("torch."),
            self.device,
            self.num_pages,
            config.page_size,
            self.max_model_len,
            self._decoder.attention.describe(),
        )

    # --- a step -----------------------------------------------------------------------

    @torch.inference_mode()
    def step(self, batch: Batch) -> StepOutput:
        """Carries out one batch."""
        for request_id in batch.ended:
            self._requests.pop(request_id, None)
        self._embeddings.drop(batch.evict)
        for request in batch.started:
            self._requests[request.request_id] = RunningRequest(request, self._seed)
        failed = self._encode(batch)
        chunks = [chunk for chunk in batch.chunks if chunk.request_id not in failed]
        tokens = self._compute(chunks, failed)
        # The scheduler counts what a failed request had encoded as not encoded.
        self._embeddings.drop(task.key for task in batch.encode if task.request_id in failed)
        return StepOutput(tokens=tuple(tokens), failed=failed)

    def _encode(self, batch: Batch) -> dict[str, str]:
        """Encodes what is asked for; request id → why, for those that lack an embedding."""
        if batch.encode:
            items = [self._requests[t.request_id].request.items[t.item] for t in batch.encode]
            failures = self._embeddings.encode(items)
        else:
            failures = {}
        failed: dict[str, str] = {}
        for task in batch.encode:
            if task.key in failures:
                failed[task.request_id] = failures[task.key]
        for chunk in batch.chunks:
            request = self._requests[chunk.request_id].request
            for replaced in embedded_rows(request, chunk.start, chunk.stop):
                if replaced.key not in self._embeddings:
                    failed.setdefault(
                        chunk.request_id,
                        failures.get(replaced.key, "An embedding that the request needs is gone."),
                    )
        return failed

    def _compute(self, chunks: Sequence[Chunk], failed: dict[str, str]) -> list[SampledToken]:
        """Computes chunks together; if that fails, one by one, so that only the culprit fails."""
        if not chunks:
            return []
        try:
            tokens, broken = self._forward(chunks)
        except Exception as error:
            if len(chunks) > 1:
                logger.warning("a step failed; its requests are computed one by one")
                return [token for chunk in chunks for token in self._compute([chunk], failed)]
            logger.exception("a request could not be computed")
            sentence = f"The request could not be computed ({type(error).__name__})."
            failed[chunks[0].request_id] = sentence
            return []
        failed.update(broken)
        return tokens

    def _forward(self, chunks: Sequence[Chunk]) -> tuple[list[SampledToken], dict[str, str]]:
        """Tokens, and request id → a sentence where none could be chosen."""
        flat = flatten(
            chunks,
            self._requests,
            axes=self._axes,
            page_size=self._page_size,
            device=self.device,
        )
        hidden, deep = self._embed(flat)
        out = self._decoder(hidden, flat.positions, self._kv_cache, flat.attention, deep)
        for chunk in chunks:
            self._requests[chunk.request_id].take(chunk)
        sampling = [self._requests[chunk.request_id] for chunk in chunks if chunk.samples]
        if not sampling:
            return [], {}
        return sample(self._decoder.logits(out[flat.samples]), sampling)

    def _embed(self, flat: FlatBatch) -> tuple[Tensor, DeepRows | None]:
        """Token embeddings with media embeddings in their places, and what goes in deeper."""
        hidden = self._decoder.embed(flat.token_ids)
        rows_by_depth: list[tuple[Tensor, Tensor]] = []
        for replaced in flat.embedded:
            output = self._embeddings[replaced.key]
            rows = torch.from_numpy(replaced.rows).to(self.device)
            sources = torch.from_numpy(replaced.sources).to(self.device)
            hidden[rows] = output.embeds[sources]
            if output.deep is not None:
                rows_by_depth.append((rows, output.deep[:, sources]))
        return hidden, _deep_rows(rows_by_depth)

    # --- memory -----------------------------------------------------------------------

    def _kv_bytes(
        self, config: EngineConfig, context: int, worst_items: Callable[[], Sequence[EngineItem]]
    ) -> int:
        """How much the KV cache may take."""
        if self.device.type == "cpu":
            return memory.cpu_kv_bytes(config, self.kv_shape, context)
        embeddings = int(config.mm_encoder_cache_gb * GIB) if self.embed_row_bytes else 0
        return memory.device_kv_bytes(
            config, self.device, embeddings, lambda: self._worst_step(config, context, worst_items)
        )

    @torch.inference_mode()
    def _worst_step(
        self, config: EngineConfig, context: int, worst_items: Callable[[], Sequence[EngineItem]]
    ) -> None:
        """The most that one call of each encoder and one forward take; nothing of it is kept."""
        for item in worst_items():
            copies = max(1, MAX_ROWS // max(1, item.num_tokens))
            items = [replace(item, key=bytes([i % 256, i // 256])) for i in range(copies)]
            failures = self._embeddings.encode(items)
            if failures:
                raise EngineError(f"Memory profiling failed: {next(iter(failures.values()))}")
            self._embeddings.drop([item.key for item in items])
        self._kv_cache = self._allocate(1)
        for requests, chunks in fullest_steps(config, context):
            self._requests = {r.request_id: RunningRequest(r, self._seed) for r in requests}
            self._forward(chunks)
        self._requests = {}
        del self._kv_cache

    def _allocate(self, num_pages: int) -> Tensor:
        shape = self.kv_shape
        dims = (num_pages, shape.page_size, shape.num_kv_heads, shape.head_size)
        return torch.zeros(shape.num_layers, 2, *dims, dtype=self.dtype, device=self.device)

    def close(self) -> None:
        """Gives back weights, pages and embeddings; the runner can't be used any more."""
        for name in ("_decoder", "_embeddings", "_kv_cache"):
            self.__dict__.pop(name, None)
        self._requests.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _num_levels(spec: EncoderSpec, config: Mapping[str, Any], decoder: DecoderConfig) -> int:
    """How many levels an encoder's embeddings have besides the first."""
    levels = spec.deep_levels(config) if spec.deep_levels is not None else 0
    if not 0 <= levels <= decoder.num_layers:
        raise ConfigError(
            f"The encoder {spec.name} announces {levels} deep levels; the decoder has "
            f"{decoder.num_layers} layers to add them behind."
        )
    return levels


def _deep_rows(parts: Sequence[tuple[Tensor, Tensor]]) -> DeepRows | None:
    if not parts:
        return None
    levels = max(len(values) for _, values in parts)
    padded = [
        torch.cat([values, values.new_zeros(levels - len(values), *values.shape[1:])])
        for _, values in parts
    ]
    return DeepRows(torch.cat([rows for rows, _ in parts]), torch.cat(padded, dim=1))
