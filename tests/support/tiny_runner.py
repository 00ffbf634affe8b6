"""A runner over a random tiny model with a stand-in kind of media, and who schedules it.

The kind is "scent": a feature tensor (rows, 4) per item, which the encoder "nose" projects to
the decoder's width. Encoder "deep" adds levels. What a runner computes is held against
transformers, which is given the same embeddings and masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from sensorium.checkpoint import open_checkpoint
from sensorium.config import EngineConfig
from sensorium.errors import MediaError
from sensorium.models.plugin import LlamaFamily, Qwen2Family
from sensorium.plugins import EncoderOutput, EncoderSpec, WeightMap, WeightRule
from sensorium.runner import Runner
from sensorium.sampling_params import SamplingParams
from sensorium.types import (
    Batch,
    Chunk,
    EncodeTask,
    EngineItem,
    EngineRequest,
    Features,
    Pooled,
    PromptLogprobs,
    SampledTokens,
    StepOutput,
)

HIDDEN, VOCAB, PAGE_SIZE, NUM_PAGES = 32, 96, 4, 64
CLASSES: dict[str, Any] = {
    "llama": (LlamaConfig, LlamaForCausalLM, LlamaFamily),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, Qwen2Family),
}
GREEDY = SamplingParams(temperature=0.0, max_tokens=64).filled({})


class Nose(nn.Module):
    """Projects features; misbehaves where the item asks for it."""

    def __init__(self, levels: int = 0) -> None:
        super().__init__()
        self.proj = nn.Linear(4, HIDDEN, bias=False)
        self.levels = levels
        self.calls: list[int] = []

    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        self.calls.append(len(items))
        if any("raises" in item for item in items):
            raise RuntimeError("a secret of the library")
        if any("blames" in item for item in items):
            raise MediaError("This item smells of nothing.")
        return [self.one(item) for item in items]

    def one(self, item: Features) -> EncoderOutput:
        embeds = self.proj(item["rows"].to(self.proj.weight))
        if "output" in item:
            embeds = item["output"]
        deep = torch.stack([embeds * (i + 2) for i in range(self.levels)]) if self.levels else None
        if "deep" in item:
            deep = item["deep"]
        return EncoderOutput(embeds, deep)


def nose_spec(name: str, levels: int = 0) -> EncoderSpec:
    rules = WeightMap((WeightRule(rf"{name}\.(proj\.weight)", r"\1"),))
    announce = (lambda config: levels) if levels else None
    return EncoderSpec(name, lambda context: Nose(levels), rules, deep_levels=announce)


class Adapter:
    """What the runner asks of a ``MediaAdapter``: its encoders, and whether it is causal."""

    def __init__(self, *encoders: str, non_causal: bool = False) -> None:
        self.encoders = encoders
        self.non_causal = non_causal


KINDS = {
    "scent": Adapter("nose", non_causal=True),
    "deep scent": Adapter("deep"),
    "two scents": Adapter("deep", "nose"),
}


@dataclass
class Model:
    """A folder and the same weights in transformers."""

    folder: Path
    theirs: Any
    style: str

    def runner(self, **options: Any) -> Runner:
        kinds: Mapping[str, Any] = options.pop("kinds", KINDS)
        options = {
            "dtype": "float32",
            "device": "cpu",
            "page_size": PAGE_SIZE,
            "max_num_seqs": 4,
            "kv_cache_memory_bytes": NUM_PAGES * PAGE_SIZE * 3 * 2 * 2 * 8 * 4,
            **options,
        }
        config = EngineConfig.from_options(model=self.folder, **options)
        specs = {spec.name: spec for spec in (nose_spec("nose"), nose_spec("deep", 2))}
        return Runner(
            config,
            open_checkpoint(config),
            CLASSES[self.style][2](),
            specs,
            kinds,
            options_of=lambda name: {},
            worst_items=lambda used: [item(bytes([9, i]), 3, kind=k) for i, k in enumerate(used)],
        )

    @torch.inference_mode()
    def logits(self, embeds: Tensor, mask: Tensor | None = None) -> Tensor:
        """transformers' logits of one sequence of embeddings (N, hidden), with its own mask."""
        extra = {} if mask is None else {"attention_mask": mask[None, None]}
        result: Tensor = self.theirs(inputs_embeds=embeds[None], **extra).logits[0]
        return result

    def embed(self, token_ids: Sequence[int]) -> Tensor:
        result: Tensor = self.theirs.get_input_embeddings()(torch.tensor(token_ids)).detach()
        return result


def make_model(style: str, folder: Path) -> Model:
    config_class, model_class, _ = CLASSES[style]
    torch.manual_seed(1)
    theirs = model_class(
        config_class(
            hidden_size=HIDDEN,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=VOCAB,
            max_position_embeddings=200,
        )
    ).eval()
    for name, parameter in theirs.named_parameters():
        deviation = 0.3 if parameter.dim() == 1 else 1.5 * parameter.shape[-1] ** -0.5
        torch.nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, deviation)
    theirs.save_pretrained(folder)
    tensors = {name: tensor.contiguous() for name, tensor in theirs.state_dict().items()}
    for name in ("nose", "deep"):
        tensors[f"{name}.proj.weight"] = torch.randn(HIDDEN, 4)
    save_file(tensors, folder / "model.safetensors")
    return Model(folder, theirs, style)


def item(
    key: bytes, num_tokens: int, *, kind: str = "scent", seed: int = 0, **features: Tensor
) -> EngineItem:
    """An item whose encoders get ``num_tokens`` random rows between them."""
    names = KINDS[kind].encoders
    generator = torch.Generator().manual_seed(seed)
    share = num_tokens // len(names)
    sizes = [num_tokens - share * (len(names) - 1), *[share] * (len(names) - 1)]
    given = {
        name: {"rows": torch.randn(size, 4, generator=generator), **features}
        for name, size in zip(names, sizes, strict=True)
    }
    return EngineItem(key, kind, num_tokens, 0, given)


def asked(
    request_id: str, token_ids: Sequence[int], sampling: SamplingParams = GREEDY, **fields: Any
) -> EngineRequest:
    return EngineRequest(request_id, tuple(token_ids), sampling, max_tokens=64, **fields)


def step(runner: Runner, batch: Batch) -> StepOutput:
    """Carries out one batch, and waits for it."""
    return runner.sample(runner.launch(batch)).result()


@dataclass
class MiniScheduler:
    """Hands out pages in a scattered order, and chunks as it is told."""

    runner: Runner
    tokens: dict[str, list[int]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    samples: dict[str, list[SampledTokens]] = field(default_factory=dict)
    prompt_logprobs: dict[str, PromptLogprobs] = field(default_factory=dict)
    pooled: dict[str, Pooled] = field(default_factory=dict)
    _known: dict[str, EngineRequest] = field(default_factory=dict)
    _computed: dict[str, int] = field(default_factory=dict)
    _pages: dict[str, list[int]] = field(default_factory=dict)
    _new: list[EngineRequest] = field(default_factory=list)
    _ended: list[str] = field(default_factory=list)
    _encoded: set[bytes] = field(default_factory=set)
    _evict: list[bytes] = field(default_factory=list)
    _free: list[int] = field(default_factory=lambda: [i * 37 % NUM_PAGES for i in range(NUM_PAGES)])

    def add(self, *requests: EngineRequest) -> None:
        for request in requests:
            self._known[request.request_id] = request
            self._computed[request.request_id] = 0
            self._pages.setdefault(request.request_id, [])
            self.tokens[request.request_id] = list(request.token_ids)
            self.samples[request.request_id] = []
            self._new.append(request)

    def preempt(self, request_id: str) -> None:
        """Takes its pages; it is started anew with the next step that computes it."""
        self._free += self._pages[request_id]
        self._pages[request_id] = []
        self._computed[request_id] = 0
        self._ended.append(request_id)
        self._new.append(self._known[request_id])

    def answer(self, request_id: str) -> list[int]:
        return self.tokens[request_id][len(self._known[request_id].token_ids) :]

    def step(self, sizes: Mapping[str, int]) -> StepOutput:
        """Computes as many tokens of each request; those that reach the end sample."""
        chunks, encode = [], []
        for request_id, size in sizes.items():
            start, ids = self._computed[request_id], self.tokens[request_id]
            stop = min(start + size, len(ids))
            pages = self._pages[request_id]
            while len(pages) * PAGE_SIZE < stop:
                pages.append(self._free.pop())
            chunks.append(
                Chunk(
                    request_id,
                    start,
                    tuple(ids[start:stop]),
                    tuple(pages),
                    num_rows=int(stop == len(ids)),
                )
            )
            for span in self._known[request_id].spans:
                needed = self._known[request_id].items[span.item].key
                if span.offset < stop and span.end > start and needed not in self._encoded:
                    self._encoded.add(needed)
                    encode.append(EncodeTask(request_id, span.item, needed))
        started = [request for request in self._new if request.request_id in sizes]
        self._new = [request for request in self._new if request not in started]
        ended, self._ended = self._ended, []
        evict, self._evict = self._evict, []
        output = step(
            self.runner,
            Batch(tuple(started), tuple(encode), tuple(chunks), tuple(evict), tuple(ended)),
        )
        for chunk in chunks:
            self._computed[chunk.request_id] = chunk.stop
        for sampled in output.tokens:
            self.tokens[sampled.request_id] += sampled.token_ids
            self.samples[sampled.request_id].append(sampled)
        self.failed.update(output.failed)
        self.pooled.update(output.pooled)
        for request_id, found in output.prompt_logprobs.items():
            before = self.prompt_logprobs.get(request_id, ())
            self.prompt_logprobs[request_id] = before + found
        for task in encode:
            if task.request_id in output.failed:
                self._encoded.discard(task.key)
                self._evict.append(task.key)
        return output

    def run_only(self, request_id: str, num_tokens: int) -> None:
        """Computes one request until it has so many new tokens."""
        while len(self.answer(request_id)) < num_tokens:
            self.step({request_id: 1000})

    def run(self, num_tokens: int, chunk: int = 1000) -> None:
        """Computes all requests together until each has so many new tokens or has failed."""
        while True:
            open_ids = [
                request_id
                for request_id in self._known
                if request_id not in self.failed and len(self.answer(request_id)) < num_tokens
            ]
            if not open_ids:
                return
            self.step(dict.fromkeys(open_ids, chunk))
