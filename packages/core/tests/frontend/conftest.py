"""Two kinds, and adapters whose placeholders are spelt in every way there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from tiny_tokenizers import write_llama_like, write_qwen_like

from sensorium.errors import MediaError
from sensorium.plugins import MediaAdapter, MediaKind, Placeholder
from sensorium.tokenizer import Tokenizer
from sensorium.types import (
    Features,
    Loaded,
    MediaItem,
    MediaPlan,
    MediaShape,
    Probe,
    Source,
    ValueSource,
)


class Kind(MediaKind):
    """Takes any value; one that is "bad" is refused."""

    def split(self, value: Any) -> list[MediaItem]:
        return [MediaItem(self.name, i, (ValueSource(v),)) for i, v in enumerate(value)]

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        if value == "bad":
            raise MediaError(f"a {part_type} can't be bad")
        return MediaItem(self.name, 0, () if value is None else (ValueSource(value),))

    def probe(self, sources: Sequence[Source]) -> Probe:
        raise NotImplementedError

    def load(self, sources: Sequence[Source]) -> Loaded:
        raise NotImplementedError

    def digest(self, sources: Sequence[Source]) -> bytes:
        raise NotImplementedError


class ThingKind(Kind):
    name = "thing"
    part_types = ("thing_url", "thing_value")


class NoteKind(Kind):
    name = "note"
    part_types = ("note",)


class Adapter(MediaAdapter):
    """A placeholder given by its texts; "{}" in them becomes the item's number from 1."""

    architectures = ("Any",)
    encoders = ("none",)

    def __init__(
        self,
        kind: str,
        text: str,
        token_ids: tuple[int, ...] = (),
        in_context: str | None = None,
        part: Mapping[str, Any] | None = None,
        *,
        parts_text: bool = False,
    ) -> None:
        self.kind = kind  # type: ignore[misc]
        self._parts_text = parts_text
        self._text, self._token_ids, self._part = text, token_ids, part
        self._in_context = in_context or text

    def placeholder(self, index: int) -> Placeholder:
        number = str(index + 1)
        return Placeholder(
            self._text.replace("{}", number),
            self._token_ids,
            self._in_context.replace("{}", number),
            self._parts_text,
        )

    def template_part(self) -> Mapping[str, Any] | None:
        return self._part

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        raise NotImplementedError

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        raise NotImplementedError

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        raise NotImplementedError


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """Byte-level BPE with ``<|thing_pad|>``."""
    return Tokenizer.load(write_qwen_like(tmp_path_factory.mktemp("qwen")))


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """SentencePiece-like BPE with ``<thing>``."""
    return Tokenizer.load(write_llama_like(tmp_path_factory.mktemp("llama")))


@pytest.fixture
def kinds() -> dict[str, MediaKind]:
    """Both kinds."""
    return {"thing": ThingKind({}), "note": NoteKind({})}


@pytest.fixture
def thing(qwen: Tokenizer) -> Adapter:
    """One token of the vocabulary, with a start in front of it in a conversation."""
    token_id = qwen.token_to_id("<|thing_pad|>")
    assert token_id is not None
    return Adapter("thing", "<|thing_pad|>", (token_id,), "<|thing_start|><|thing_pad|>")


@pytest.fixture
def part_thing(qwen: Tokenizer, thing: Adapter) -> Adapter:
    """The same, shown to templates as a part of its own."""
    own = thing.placeholder(0)
    return Adapter("thing", own.text, own.token_ids, own.in_context, {"type": "thing"})


@pytest.fixture
def note() -> Adapter:
    """A placeholder that no vocabulary has."""
    return Adapter("note", "[[note]]", (), "([[note]])")


@pytest.fixture
def numbered() -> Adapter:
    """Placeholders that name their item."""
    return Adapter("note", "[[{}]]", ())


@pytest.fixture
def make() -> type[Adapter]:
    """Makes an adapter of any spelling."""
    return Adapter


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Transformers' form of ``qwen``."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(write_qwen_like(tmp_path_factory.mktemp("oracle")))
