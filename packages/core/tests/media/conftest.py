"""A kind and an adapter that count what they are asked to do."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch

from sensorium.errors import MediaError, RequestError
from sensorium.media.digest import Digest
from sensorium.media.pipeline import MediaPipeline
from sensorium.plugins import MediaAdapter, MediaKind, Placeholder
from sensorium.plugins.guard import GuardedAdapter, GuardedKind
from sensorium.types import (
    BytesSource,
    DerivedItem,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    Probe,
    Source,
    UrlSource,
    ValueSource,
)


class NoteKind(MediaKind):
    """Text as media: N characters are N tokens. ``~`` derives an echo; ``!`` is damaged."""

    name = "note"
    max_decoded_bytes = 1000
    max_fetch_bytes = 64
    default_limit = 4

    def __init__(self, options: Mapping[str, Any] = {}) -> None:
        super().__init__(options)
        self.calls: Counter[str] = Counter()
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Semaphore(0)

    def split(self, value: Any) -> list[MediaItem]:
        if not isinstance(value, list):
            value = [value]
        return [
            MediaItem(self.name, i, () if v is None else (self._source(v),))
            for i, v in enumerate(value)
        ]

    def _source(self, value: Any) -> Source:
        return UrlSource(value) if value.startswith(("data:", "http:")) else ValueSource(value)

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        raise NotImplementedError

    def text(self, sources: Sequence[Source]) -> str:
        (source,) = sources
        if isinstance(source, BytesSource):
            return source.data.decode()
        assert isinstance(source, ValueSource)
        return str(source.value)

    def probe(self, sources: Sequence[Source]) -> Probe:
        self.calls["probe"] += 1
        text = self.text(sources)
        return Probe(MediaShape((len(text),)), 10 * len(text))

    def load(self, sources: Sequence[Source]) -> Loaded:
        self.calls["load"] += 1
        self.started.release()
        assert self.gate.wait(10)
        text = self.text(sources)
        if "!" in text:
            raise OSError("libnote: broken at 0x7fff1234")
        echo = Loaded(text[::-1], MediaShape((len(text),)))
        derived = [DerivedItem(kind, "echo", echo) for kind in ("echo", "unknown") if "~" in text]
        return Loaded(text, MediaShape((len(text),)), tuple(derived))

    def digest(self, sources: Sequence[Source]) -> bytes:
        self.calls["digest"] += 1
        return Digest("note").add(self.text(sources)).digest()


class NoteAdapter(MediaAdapter):
    """Features: the characters' codes, one row a token, times the option ``gain``."""

    kind = "note"
    architectures = ("TestModel",)
    encoders = ("reader",)
    option_names = frozenset({"gain"})
    embeds_fields = ("mark",)

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, torch.Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        self.calls["plan_embeds"] += 1
        if num_rows > 50:
            raise RequestError("a note has at most 50 characters.")
        mark = int(fields["mark"])
        return MediaPlan(num_rows - (mark == 13), (7,) * (num_rows - (mark == 13)), grid=(mark,))

    def placeholder(self, index: int) -> Placeholder:
        return Placeholder("<note>", (7,), "<note>")

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        if kwargs.get("gain", 1) < 1:
            raise RequestError(f"gain is {kwargs['gain']}; it must be at least 1.")
        return {"gain": kwargs.get("gain", 1)}

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        self.calls["plan"] += 1
        if shape.size[0] > 50:
            raise MediaError("a note has at most 50 characters.")
        return MediaPlan(shape.size[0], (7,) * shape.size[0])

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Mapping[str, torch.Tensor]]:
        self.calls["process"] += 1
        if "?" in loaded.value:
            raise ZeroDivisionError
        codes = [options["gain"] * ord(c) for c in loaded.value]
        return {"reader": {"codes": torch.tensor(codes, dtype=torch.int32)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        return MediaShape((50,))


class EchoAdapter(NoteAdapter):
    """How the test model takes what notes contain."""

    kind = "echo"
    option_names = frozenset({"loudness"})

    def options(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"gain": kwargs.get("loudness", 1)}


class Bench:
    """A pipeline with its counting parts."""

    def __init__(self, *, echo: bool = False, **options: Any) -> None:
        self.kind = NoteKind()
        self.adapter = NoteAdapter()
        adapters: dict[str, MediaAdapter] = {"note": self.adapter}
        if echo:
            adapters["echo"] = EchoAdapter()
        settings: dict[str, Any] = {
            "limits": {},
            "processor_kwargs": {},
            "cache_bytes": 2**20,
            "num_threads": 4,
            "uuids_ignored": False,
            "architecture": "TestModel",
        }
        self.pipeline = MediaPipeline(
            {"note": GuardedKind(self.kind, "notes")},
            {kind: GuardedAdapter(made, "notes", 100) for kind, made in adapters.items()},
            **{**settings, **options},
        )

    def items(self, *texts: str | None, uuids: Any = None) -> list[MediaItem]:
        return self.pipeline.split(
            {"note": list(texts)}, None if uuids is None else {"note": uuids}
        )


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    """Makes a ``Bench`` with the given options of the pipeline, closed at the end."""
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.kind.gate.set()
        one.pipeline.close()


@pytest.fixture
def adapter() -> NoteAdapter:
    """An adapter of the test kind."""
    return NoteAdapter()
