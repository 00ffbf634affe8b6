"""A plugin that makes, on demand, every mistake that a plugin's objects can make at run time.

A value is the name of a mistake, "CALL WHAT": the call of that name then raises or returns it. The
name travels in the item's shape, plan and features, so that each call knows what is asked of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from sensorium.media.digest import Digest
from sensorium.models.plugin import Qwen2Family
from sensorium.plugins import (
    EncoderContext,
    EncoderOutput,
    EncoderSpec,
    MediaAdapter,
    MediaKind,
    Placeholder,
    TokenizedPrompt,
    WeightMap,
    hookimpl,
    walk_slots,
)
from sensorium.types import (
    BytesSource,
    Composition,
    DerivedItem,
    Features,
    GivenEmbeds,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    PreparedItem,
    Probe,
    Source,
    UrlSource,
    ValueSource,
)

api = 2
ARCHITECTURE = "FaultForCausalLM"
NUM_TOKENS = 2


class Odd(BaseException):
    """Raised by nobody else."""


def _raising(error: BaseException) -> Callable[[Any], Any]:
    def raise_it(right: Any) -> Any:
        raise error

    return raise_it


RAISES: dict[str, BaseException] = {
    "SystemExit": SystemExit("secret"),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "CancelledError": asyncio.CancelledError(),
    "Odd": Odd("secret"),
    "TypeError": TypeError("secret"),
    "OSError": OSError("secret"),
}
#: What a device raises; only the calls that compute on it may let it through.
DEVICE_RAISES: dict[str, BaseException] = {
    "OutOfMemoryError": torch.OutOfMemoryError("secret"),
    "AcceleratorError": torch.AcceleratorError("secret"),
}
_SHAPE = MediaShape((NUM_TOKENS,), {"second": float("nan")})
_BEAT = DerivedItem("beat", "beat", Loaded(None, _SHAPE))

#: What a call returns in place of the right thing, which it gets.
RETURNS: dict[str, Callable[[Any], Any]] = {
    "split None": lambda right: None,
    "split a tuple": tuple,
    "split wrong indices": lambda right: [replace(item, index=7) for item in right],
    "split strings": lambda right: ["an item"],
    "split another kind's": lambda right: [replace(item, kind="scent") for item in right],
    "split a number as URL": lambda right: [_of(item, UrlSource(7)) for item in right],  # type: ignore[arg-type]
    "split text as bytes": lambda right: [_of(item, BytesSource("x")) for item in right],  # type: ignore[arg-type]
    "split a number as uuid": lambda right: [replace(item, uuid=7) for item in right],
    "split fields without names": lambda right: [
        replace(item, sources=(), embeds=GivenEmbeds(torch.ones(2, 64), 7))  # type: ignore[arg-type]
        for item in right
    ],
    "parse_part None": lambda right: None,
    "parse_part sources": lambda right: right.sources,
    "digest short": lambda right: right[:31],
    "digest text": lambda right: "x" * 32,
    "probe numbers": lambda right: (2, 8),
    "probe a bare size": lambda right: replace(right, shape=(2,)),
    "probe an unnamed fact": lambda right: replace(right, shape=MediaShape((2,), {"speed": 1})),
    "probe another size": lambda right: replace(right, shape=MediaShape((9,))),
    "load None": lambda right: None,
    "load a bare size": lambda right: replace(right, shape=(2,)),
    "load a float size": lambda right: replace(right, shape=MediaShape((2.0,))),  # type: ignore[arg-type]
    "load one derived item twice": lambda right: replace(right, derived=(_BEAT, _BEAT)),
    "load a derived item without a name": lambda right: replace(
        right, derived=(replace(_BEAT, name=7),)
    ),
    "options None": lambda right: None,
    "options an object": lambda right: {"fault": object()},
    "options an array of objects": lambda right: {"fault": np.array([object()])},
    "options a time": lambda right: {"fault": np.datetime64("2000-01-01T00")},
    "plan None": lambda right: None,
    "plan no tokens": lambda right: MediaPlan(0, ()),
    "plan too few ids": lambda right: MediaPlan(2, (0,)),
    "plan a short mask": lambda right: MediaPlan(2, (0, 0), b"\1"),
    "plan a mask of other ones": lambda right: MediaPlan(2, (0, 0), b"\1\0"),
    "plan a list": lambda right: replace(right, token_ids=[0, 0]),
    "plan a mask of twos": lambda right: MediaPlan(2, (0, 0, 0), b"\1\1\2"),
    "plan a writable mask": lambda right: replace(right, is_embed=bytearray(b"\1\1")),
    "plan an object as grid": lambda right: replace(right, grid=(object(),)),
    "plan an id beyond": lambda right: replace(right, token_ids=(0, 10**6)),
    "process None": lambda right: None,
    "process another encoder's": lambda right: {"ear": right["nose"]},
    "process arrays": lambda right: {"nose": {"fault": np.zeros(2)}},
    "process sparse": lambda right: {"nose": {"fault": right["nose"]["fault"].to_sparse()}},
    "process a gradient": lambda right: {"nose": {"fault": torch.ones(2, requires_grad=True)}},
    "process a number as name": lambda right: {"nose": {7: torch.ones(2)}},
    "compose None": lambda right: None,
    "compose a list": lambda right: replace(right, token_ids=list(right.token_ids)),
    "compose no spans": lambda right: replace(right, spans=()),
    "compose a span outside": lambda right: replace(
        right, spans=tuple(replace(span, offset=10**4) for span in right.spans)
    ),
    "compose a span twice": lambda right: replace(right, spans=right.spans * 2),
    "compose float positions": lambda right: replace(
        right, positions=np.zeros((1, len(right.token_ids)))
    ),
    "compose short positions": lambda right: replace(right, positions=np.zeros((1, 1), np.int64)),
    "forward a bare tensor": lambda right: [output.embeds for output in right],
    "forward None": lambda right: None,
    "forward one too few": lambda right: right[1:],
    "forward integers": lambda right: [EncoderOutput(right[0].embeds.long())],
    "forward sparse": lambda right: [EncoderOutput(right[0].embeds.to_sparse())],
    "forward no values": lambda right: [EncoderOutput(right[0].embeds.to("meta"))],
    "forward too few rows": lambda right: [EncoderOutput(right[0].embeds[1:])],
    "forward not a number": lambda right: [EncoderOutput(right[0].embeds * float("nan"))],
    "forward levels": lambda right: [replace(right[0], deep=right[0].embeds[None])],
}
FAULTS = [*RETURNS]
for _call in (
    "split", "parse_part", "digest", "probe", "load", "options", "plan", "process", "compose",
):  # fmt: skip
    FAULTS += [f"{_call} {name}" for name in (*RAISES, *DEVICE_RAISES)]
FAULTS += [f"forward {name}" for name in RAISES]


def _act(call: str, fault: Any, right: Any) -> Any:
    if not isinstance(fault, str) or not fault.startswith(f"{call} "):
        return right
    what = fault.removeprefix(f"{call} ")
    error = RAISES.get(what) or DEVICE_RAISES.get(what)
    if error is not None:
        raise error
    return RETURNS[fault](right)


def _of(item: MediaItem, source: Source) -> MediaItem:
    return replace(item, sources=(source,))


class Fault(MediaKind):
    name = "fault"
    part_types = offline_part_types = ("fault",)
    size_names = ("length",)
    fact_names = ("fault", "second")

    def split(self, value: Any) -> list[MediaItem]:
        faults = value if isinstance(value, list) else [value]
        right = [MediaItem("fault", i, (ValueSource(one),)) for i, one in enumerate(faults)]
        for fault in faults:
            right = _act("split", fault, right)
        return right

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        right: MediaItem = _act("parse_part", value, MediaItem("fault", 0, (ValueSource(value),)))
        return right

    def probe(self, sources: Sequence[Source]) -> Probe:
        right: Probe = _act("probe", _fault(sources), Probe(_SHAPE, 8))
        return right

    def load(self, sources: Sequence[Source]) -> Loaded:
        fault = _fault(sources)
        shape = replace(_SHAPE, facts={"fault": fault, "second": float("nan")})
        right: Loaded = _act("load", fault, Loaded(fault, shape))
        return right

    def digest(self, sources: Sequence[Source]) -> bytes:
        fault = _fault(sources)
        right: bytes = _act("digest", fault, Digest("fault").add(fault).digest())
        return right


def _fault(sources: Sequence[Source]) -> str:
    (source,) = sources
    assert isinstance(source, ValueSource)
    return str(source.value)


class Nose(torch.nn.Module):
    def __init__(self, context: EncoderContext) -> None:
        super().__init__()
        self.hidden_size = context.decoder.hidden_size

    def forward(self, items: Sequence[Features]) -> Any:
        right = [EncoderOutput(torch.ones(NUM_TOKENS, self.hidden_size)) for _ in items]
        for item in items:
            right = _act("forward", bytes(item["fault"].tolist()).decode(), right)
        return right


class FaultAdapter(MediaAdapter):
    kind = "fault"
    architectures = (ARCHITECTURE,)
    encoders = ("nose",)
    own_encoders = (EncoderSpec("nose", Nose, WeightMap(())),)
    option_names = frozenset({"fault"})

    def placeholder(self, index: int) -> Placeholder:
        return Placeholder("<fault>", (), "<fault>")

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        right: Mapping[str, Any] = _act("options", kwargs.get("fault"), {})
        return right

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        plan = MediaPlan(NUM_TOKENS, (0,) * NUM_TOKENS, facts=shape.facts)
        right: MediaPlan = _act("plan", shape.facts.get("fault"), plan)
        return right

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        fault = torch.tensor(list(loaded.value.encode()), dtype=torch.uint8)
        right: Mapping[str, Features] = _act("process", loaded.value, {"nose": {"fault": fault}})
        return right

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return _SHAPE


class FaultFamily(Qwen2Family):
    architectures = (ARCHITECTURE,)

    def compose(
        self,
        prompt: TokenizedPrompt,
        items: Sequence[PreparedItem],
        adapters: Mapping[str, MediaAdapter],
        context: Any,
    ) -> Composition:
        assert all(type(adapter) is FaultAdapter for adapter in adapters.values())
        right = walk_slots(prompt, items, adapters)
        for item in items:
            right = _act("compose", item.plan.facts.get("fault"), right)
        return right


@hookimpl
def sensorium_media_kinds() -> list[type[MediaKind]]:
    return [Fault]


@hookimpl
def sensorium_media_adapters() -> list[type[MediaAdapter]]:
    return [FaultAdapter]


@hookimpl
def sensorium_model_families() -> list[Any]:
    return [FaultFamily()]
