"""``Runner``: carries out batches on the device.

    launch   drop what ended → take in what started → encode items → one forward pass
    sample   choose tokens

The scheduler decides what is computed, kept and dropped. Both halves only enqueue work on the
device; results are read later, so that the next step can be planned meanwhile.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from sensorium.checkpoint import Checkpoint
from sensorium.config import GIB, EngineConfig
from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, EngineError
from sensorium.models.decoder import Decoder
from sensorium.models.load import load_model
from sensorium.ops import extension
from sensorium.plugins import EncoderContext, EncoderSpec, MediaAdapter, ModelFamily
from sensorium.plugins.guard import GuardedEncoder, guarded_spec
from sensorium.runner import memory
from sensorium.runner.batch import embedded_rows
from sensorium.runner.decode_graphs import batch_sizes
from sensorium.runner.device import choose_device, choose_dtype
from sensorium.runner.embeddings import MAX_ROWS, Embeddings, Encoded
from sensorium.runner.encode_timer import EncodeTimer
from sensorium.runner.forward import ForwardPass, HiddenRows
from sensorium.runner.fullest_step import fullest_steps
from sensorium.runner.huge_pages import move_into_huge_pages
from sensorium.runner.pending_step import PendingStep
from sensorium.runner.prefill_graphs import prefill_sizes
from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import Choice
from sensorium.stats import Histogram
from sensorium.types import Batch, Chunk, EngineItem, EngineRequest, ExecutorInfo, Masks

logger = logging.getLogger("sensorium.runner")

#: Kinds → the largest item of each.
WorstItems: TypeAlias = Callable[[Collection[str]], Sequence[EngineItem]]


@dataclass(frozen=True, slots=True)
class LaunchedStep:
    """A batch whose hidden rows the device is computing; opaque outside the runner.

    Attributes:
        running: its requests.
        parts: what is computed together.
        encoded: the result of encoding its items.
        failed: request id → why, as far as the host knows it.
    """

    batch: Batch
    running: Mapping[str, RunningRequest]
    parts: Sequence[HiddenRows]
    encoded: Encoded
    failed: Mapping[str, str]

    def users_of(self, key: bytes) -> set[str]:
        """The requests that had an embedding encoded in this step, or compute with it."""
        users = {task.request_id for task in self.batch.encode if task.key == key}
        for chunk in self.batch.chunks:
            of = self.running[chunk.request_id]
            replaced = embedded_rows(of.request, chunk.start, chunk.stop)
            users.update(chunk.request_id for rows in replaced if rows.key == key)
        return users


class Runner:
    """A loaded model with its KV cache. Used from one thread.

    Args:
        specs: every encoder of the architecture, by name.
        adapters: kind → adapter; the encoders they name are built, the others only claim
            their weights.
        options_of: an encoder's plugin options, by its name; owner_of: the distribution that
            brought it.
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
        options_of: Callable[[str], Mapping[str, Any]],
        worst_items: WorstItems,
        owner_of: Callable[[str], str] = lambda name: "its plugin",
    ) -> None:
        decoder = family.decoder_config(checkpoint.config)
        needs_logits = config.task_of(family.task) == "generate"
        if not needs_logits:
            decoder = replace(decoder, tied=True)  # no output matrix of its own
        self.device = choose_device(config)
        self.dtype = choose_dtype(config, decoder, self.device)
        self._seed = config.seed
        self._axes = family.position_axes
        self._max_num_seqs = config.max_num_seqs
        self._requests: dict[str, RunningRequest] = {}
        self._free_slots = list(range(config.max_num_seqs))
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
        specs = {name: guarded_spec(spec, owner_of(name)) for name, spec in specs.items()}
        used = sorted({name for adapter in adapters.values() for name in adapter.encoders})
        contexts = {
            name: EncoderContext(
                architecture=checkpoint.architecture,
                config=checkpoint.config,
                processor=checkpoint.processor,
                decoder=decoder,
                dtype=self.dtype,
                device=self.device,
                plugin_options=options_of(name),
                other_configs=checkpoint.other_configs,
            )
            for name in used
        }
        with torch.inference_mode():
            loaded = load_model(
                checkpoint,
                family,
                self._decoder,
                specs,
                contexts,
                download_dir=config.download_dir,
                dummy_seed=config.seed if config.load_format == "dummy" else None,
                needs_logits=needs_logits,
            )
            if self.device.type == "cpu":
                move_into_huge_pages(self._decoder)
        self.lost_kinds = {
            kind: loaded.lost[name]
            for kind, adapter in adapters.items()
            for name in adapter.encoders
            if name in loaded.lost
        }
        adapters = {k: adapter for k, adapter in adapters.items() if k not in self.lost_kinds}
        used = sorted({name for adapter in adapters.values() for name in adapter.encoders})
        levels = {name: _num_levels(specs[name], checkpoint.config, decoder) for name in used}
        self._embeddings = Embeddings(
            {
                name: GuardedEncoder(
                    loaded.modules[name],
                    name,
                    owner_of(name),
                    hidden_size=decoder.hidden_size,
                    levels=levels[name],
                )
                for name in used
            },
            adapters,
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
        self._forward = self._forward_pass(self._kv_cache, self.max_model_len)
        if self._records(config):
            with torch.inference_mode():
                self._forward.record(
                    batch_sizes(config.max_num_seqs), prefill_sizes(config.max_num_batched_tokens)
                )
        logger.info(
            "%s in %s on %s: %d pages of %d tokens, context %d, %s, attention %s",
            checkpoint.architecture,
            str(self.dtype).removeprefix("torch."),
            self.device,
            self.num_pages,
            config.page_size,
            self.max_model_len,
            "steps recorded" if self._records(config) else "steps not recorded",
            self._decoder.attention.describe(),
        )

    @property
    def attention(self) -> str:
        """The attention backends that were chosen, in words."""
        return self._decoder.attention.describe()

    # --- a step -----------------------------------------------------------------------

    @property
    def info(self) -> ExecutorInfo:
        """As ``Executor.info``."""
        return ExecutorInfo(
            device=str(self.device),
            dtype=str(self.dtype).removeprefix("torch."),
            overlaps=self.device.type == "cuda",
            vocab_size=self._decoder.config.vocab_size,
            max_model_len=self.max_model_len,
            num_pages=self.num_pages,
            embed_row_bytes=self.embed_row_bytes,
            attention=self.attention,
        )

    @torch.inference_mode()
    def launch(self, batch: Batch) -> LaunchedStep:
        """Enqueues one batch on the device; ``sample`` must follow before the next one."""
        for request_id in batch.ended:
            self._forget(request_id)
        self._embeddings.drop(batch.evict)
        for request in batch.started:
            self._take_in(request)
        running = {chunk.request_id: self._requests[chunk.request_id] for chunk in batch.chunks}
        failed = {name: of.failure for name, of in running.items() if of.failure is not None}
        encoded = self._encode(batch, failed)
        chunks: Sequence[Chunk] = batch.chunks
        if failed:
            chunks = [chunk for chunk in chunks if chunk.request_id not in failed]
        parts = self._compute(chunks, failed)
        self._note(failed)
        return LaunchedStep(batch, running, parts, encoded, failed)

    @torch.inference_mode()
    def sample(self, launched: LaunchedStep, masks: Masks | None = None) -> PendingStep:
        """Enqueues the choice of tokens for the rows of the batch that was launched last."""
        parts, failed = launched.parts, dict(launched.failed)
        choices = [choice for part in parts for choice in self._choose(part, masks, failed)]
        self._note(failed)
        return PendingStep(
            choices=choices,
            given=[report for part in parts for report in part.given],
            prompts=[report for part in parts for report in part.prompts],
            pooled={name: row for part in parts for name, row in part.pooled.items()},
            finite=launched.encoded.finite,
            failed=failed,
            users_of=launched.users_of,
        )

    def _take_in(self, request: EngineRequest) -> None:
        running = RunningRequest(request, self._seed, self._free_slots.pop())
        self._requests[request.request_id] = running
        self._forward.start(running)

    def _forget(self, request_id: str) -> None:
        running = self._requests.pop(request_id, None)
        if running is not None:
            self._free_slots.append(running.slot)

    def _note(self, failed: Mapping[str, str]) -> None:
        """Marks requests as failed; they fail again until the scheduler has ended them."""
        for request_id, sentence in failed.items():
            self._requests[request_id].failure = sentence

    def _encode(self, batch: Batch, failed: dict[str, str]) -> Encoded:
        """Encodes the batch's items; adds requests that lack an embedding to ``failed``."""
        encoded = Encoded()
        if batch.encode:
            items = [self._requests[t.request_id].request.items[t.item] for t in batch.encode]
            whole = [item for item in items if item.num_pieces == 1]
            encoded = self._embeddings.encode(whole)
            for task, item in zip(batch.encode, items, strict=True):
                if item.num_pieces > 1:
                    encoded.add(self._embeddings.encode_pieces(item, *task.pieces))
        for task in batch.encode:
            if task.key in encoded.failures:
                failed[task.request_id] = encoded.failures[task.key]
        for chunk in batch.chunks:
            running = self._requests[chunk.request_id]
            if chunk.start >= running.media_end:
                continue
            for replaced in embedded_rows(running.request, chunk.start, chunk.stop):
                if replaced.key not in self._embeddings:
                    gone = "An embedding that the request needs is gone."
                    sentence = encoded.failures.get(replaced.key, gone)
                    failed.setdefault(chunk.request_id, sentence)
        return encoded

    def _compute(self, chunks: Sequence[Chunk], failed: dict[str, str]) -> list[HiddenRows]:
        """Computes chunks together; if that fails, one by one, so that only the culprit fails."""
        if not chunks:
            return []
        try:
            running = [self._requests[chunk.request_id] for chunk in chunks]
            return [self._forward.forward(chunks, running)]
        except torch.AcceleratorError:
            raise  # the device answers nobody any more
        except Exception as error:
            if len(chunks) > 1:
                logger.warning("a step failed; its requests are computed one by one")
                return [part.kept() for chunk in chunks for part in self._compute([chunk], failed)]
            logger.exception("a request could not be computed")
            sentence = f"The request could not be computed ({type(error).__name__})."
            failed[chunks[0].request_id] = sentence
            return []

    def _choose(
        self, part: HiddenRows, masks: Masks | None, failed: dict[str, str]
    ) -> list[Choice]:
        """Samples rows together; if that fails, one by one, so that only the culprit fails."""
        try:
            choice = self._forward.sample(part, masks)
            return [] if choice is None else [choice]
        except torch.AcceleratorError:
            raise  # the device answers nobody any more
        except Exception as error:
            if len(part.sampling) > 1:
                logger.warning("sampling failed; its requests are sampled one by one")
                return [
                    choice for one in part.each() for choice in self._choose(one, masks, failed)
                ]
            logger.exception("a request could not be sampled")
            sentence = f"The request could not be sampled ({type(error).__name__})."
            failed[part.sampling[0].request.request_id] = sentence
            return []

    # --- memory -----------------------------------------------------------------------

    def _kv_bytes(self, config: EngineConfig, context: int, worst_items: WorstItems) -> int:
        """How much the KV cache may take."""
        if self.device.type == "cpu":
            return memory.cpu_kv_bytes(config, self.kv_shape, context)
        embeddings = int(config.mm_encoder_cache_gb * GIB) if self.embed_row_bytes else 0
        return memory.device_kv_bytes(
            config, self.device, embeddings, lambda: self._worst_step(config, context, worst_items)
        )

    @torch.inference_mode()
    def _worst_step(self, config: EngineConfig, context: int, worst_items: WorstItems) -> int:
        """The most that one call of each encoder and one forward take; nothing of it is kept.

        Returns:
            Bytes that captured graphs will take between steps: those of the largest, in whose
            memory the others find room.
        """
        for item in worst_items(self.embed_row_bytes):
            copies = max(1, MAX_ROWS // max(1, item.num_tokens))
            items = [replace(item, key=bytes([i % 256, i // 256])) for i in range(copies)]
            if item.num_pieces == 1:
                failures = self._embeddings.encode(items).failures
            else:  # pieces are encoded one by one, and none is larger than the first
                items = items[:1]
                failures = self._embeddings.encode_pieces(items[0], 0, 1).failures
            if failures:
                raise EngineError(f"Memory profiling failed: {next(iter(failures.values()))}")
            self._embeddings.drop([item.key for item in items])
            self._embeddings.timer = EncodeTimer(self.device)  # a profile is no request
        forward = self._forward_pass(self._allocate(1), context)
        for requests, chunks in fullest_steps(config, context):
            running = [RunningRequest(r, self._seed, slot) for slot, r in enumerate(requests)]
            for of in running:
                forward.start(of)
            forward.sample(forward.forward(chunks, running), None)
        if not self._records(config):
            return 0
        free_before, _ = torch.cuda.mem_get_info(self.device)
        prefill = prefill_sizes(config.max_num_batched_tokens)
        forward.record([config.max_num_seqs], prefill[-1:])
        free_after, _ = torch.cuda.mem_get_info(self.device)
        return max(0, free_before - free_after)

    def _records(self, config: EngineConfig) -> bool:
        """Whether steps of few tokens (on the CPU, of decoding) are recorded, to be replayed."""
        if config.enforce_eager:
            return False
        if self.device.type == "cuda":
            return all(backend.captures for backend in self._decoder.attention.of.values())
        return extension.lack(self.device, self.dtype) is None

    def _forward_pass(self, kv_cache: Tensor, max_len: int) -> ForwardPass:
        return ForwardPass(
            self._decoder,
            self._embeddings,
            kv_cache,
            axes=self._axes,
            num_slots=self._max_num_seqs,
            max_len=max_len,
        )

    def _allocate(self, num_pages: int) -> Tensor:
        """A cache of so many pages and a spare one."""
        shape = self.kv_shape
        dims = (num_pages + 1, shape.page_size, shape.num_kv_heads, shape.head_size)
        return torch.zeros(shape.num_layers, 2, *dims, dtype=self.dtype, device=self.device)

    def encode_times(self) -> Mapping[str, Histogram]:
        """Kind → how long encoding an item took."""
        return self._embeddings.timer.snapshot()

    def close(self) -> None:
        """Gives back weights, pages and embeddings; the runner can't be used any more."""
        for name in ("_forward", "_decoder", "_embeddings", "_kv_cache"):
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
