"""``Frontend``: prepares prompts and conversations for the engine.

    ParsedPrompt or a conversation
      ├─ items (split, limits) → MediaPipeline: fetch, decode, plan, process (threads)
      └─ text → TokenizedPrompt, placeholders still in it
      → ModelFamily.compose → PreparedPrompt

Everything here runs on the CPU, before a request is admitted; nothing touches the device.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from sensorium.errors import ConfigError, RequestError
from sensorium.frontend.chat import ChatRenderer, Conversation, RenderedChat
from sensorium.frontend.placeholders import tokenize_prompt, tokenize_segments
from sensorium.frontend.prompt_ids import ExpandedPrompt, tokenized_ids
from sensorium.frontend.prompts import ParsedPrompt
from sensorium.media.pipeline import MediaPipeline, PreparedMedia
from sensorium.plugins import MediaAdapter, ModelContext, ModelFamily, TokenizedPrompt
from sensorium.sampling_params import SamplingParams
from sensorium.tokenizer import ChatTemplate, Tokenizer, load_template
from sensorium.types import Composition, MediaItem, PreparedItem

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt with its media in place, ready for admission.

    Attributes:
        text: as given, or as the chat template rendered it; None for token ids.
        num_hits: items found in the processor cache.
        media: the owner of the items' memory.
    """

    text: str | None
    composition: Composition
    items: tuple[PreparedItem, ...]
    salt: str
    num_hits: int
    media: PreparedMedia = field(default_factory=PreparedMedia)

    def release(self) -> None:
        """Returns the media's memory; to be called when the request has ended, in whatever way."""
        self.media.release()


class Frontend:
    """One engine's way in. Its methods may be awaited from any event loop.

    Args:
        folder: where the checkpoint's own chat template is looked for.
        context: what the family is told of the model.
    """

    def __init__(
        self,
        *,
        folder: Path,
        tokenizer: Tokenizer,
        family: ModelFamily,
        adapters: Mapping[str, MediaAdapter],
        context: ModelContext,
        pipeline: MediaPipeline,
        chat: ChatRenderer,
    ) -> None:
        self.pipeline = pipeline
        self._folder = folder
        self._tokenizer = tokenizer
        self._family = family
        self._adapters = adapters
        self._context = context
        self._chat = chat
        self._text_pool = ThreadPoolExecutor(2, thread_name_prefix="sensorium-text")

    async def prepare(self, prompt: ParsedPrompt) -> PreparedPrompt:
        """Prepares a ``generate`` prompt.

        Raises:
            RequestError: media, placeholders or options that can't be served.
        """
        items = self.pipeline.split(prompt.media, prompt.uuids)
        counts = Counter(item.kind for item in items)
        tokenized = await self.in_text_pool(lambda: self._tokenized(prompt, counts))
        return await self._compose(
            prompt.text, tokenized, items, prompt.salt, prompt.processor_kwargs
        )

    def _tokenized(
        self, prompt: ParsedPrompt, counts: Mapping[str, int]
    ) -> TokenizedPrompt | ExpandedPrompt:
        if prompt.token_ids is not None:
            return tokenized_ids(prompt.token_ids, self._adapters, counts)
        assert prompt.text is not None
        return tokenize_prompt(self._tokenizer, self._adapters, counts, text=prompt.text)

    async def prepare_chat(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template: str | None = None,
        template_is_trusted: bool = True,
        content_format: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        io_kwargs: Mapping[str, Any] | None = None,
        salt: str = "",
    ) -> PreparedPrompt:
        """Prepares a conversation; the options are those of ``LLM.chat``, and two more.

        Args:
            template_is_trusted: whether ``chat_template`` may name a file, and be quoted in the
                log; a stranger's may not.
            io_kwargs: laid over the engine's ``media_io_kwargs``.

        Raises:
            RequestError: as ``prepare``; or there is no chat template, or it fails.
        """

        def render() -> tuple[RenderedChat, TokenizedPrompt]:
            template = None
            if chat_template is not None:
                template = self._own_template(chat_template, template_is_trusted)
            rendered = self._chat.render(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                template=template,
                content_format=content_format,
                template_kwargs=template_kwargs,
            )
            return rendered, tokenize_segments(
                self._tokenizer, rendered.segments, add_special_tokens=rendered.add_special_tokens
            )

        rendered, tokenized = await self.in_text_pool(render)
        return await self._compose(
            rendered.text, tokenized, rendered.items, salt, processor_kwargs or {}, io_kwargs
        )

    def _own_template(self, chat_template: str, trusted: bool) -> ChatTemplate | None:
        """The template of one request; a bad one is the caller's fault, not the engine's."""
        try:
            named = self._family.chat_templates
            return load_template(
                chat_template, self._folder, self._tokenizer, None, named, trusted=trusted
            )
        except ConfigError as error:
            raise RequestError(str(error)) from error

    async def _compose(
        self,
        text: str | None,
        tokenized: TokenizedPrompt | ExpandedPrompt,
        items: Sequence[MediaItem],
        salt: str,
        processor_kwargs: Mapping[str, Any],
        io_kwargs: Mapping[str, Any] | None = None,
    ) -> PreparedPrompt:
        media = await self.pipeline.prepare(
            items, salt=salt, processor_kwargs=processor_kwargs, io_kwargs=io_kwargs
        )

        def compose() -> Composition:
            prompt = tokenized
            if isinstance(prompt, ExpandedPrompt):
                prompt = prompt.placed(media.items)
            return self._family.compose(prompt, media.items, self._adapters, self._context)

        try:
            composition = await self.in_text_pool(compose)
        except BaseException:
            media.release()
            raise
        return PreparedPrompt(text, composition, media.items, salt, media.num_hits, media)

    async def in_text_pool(self, work: Callable[[], T]) -> T:
        """Does what takes its time with text on a thread; the event loop waits for none of it."""
        return await asyncio.get_running_loop().run_in_executor(self._text_pool, work)

    def close(self) -> None:
        """Ends the threads."""
        self._text_pool.shutdown(wait=True, cancel_futures=True)
        self.pipeline.close()


def truncated(prepared: PreparedPrompt, sampling: SamplingParams, room: int) -> PreparedPrompt:
    """The prompt with as many tokens as ``sampling`` keeps of it.

    As in vLLM the ids are cut as they are, so a BOS in front goes with what it begins.

    Args:
        room: tokens kept by -1.

    Raises:
        RequestError: a prompt with items would have to be cut.
    """
    wanted = sampling.truncate_prompt_tokens
    if wanted is None:
        return prepared
    composition = prepared.composition
    num_kept, num_tokens = room if wanted == -1 else wanted, len(composition.token_ids)
    if num_tokens <= num_kept:
        return prepared
    if composition.spans:
        raise RequestError(
            f"The prompt has {num_tokens} tokens and truncate_prompt_tokens keeps {num_kept}, but "
            "prompts with items aren't cut; shorten its text."
        )
    cut = num_tokens - num_kept if sampling.truncation_side == "left" else 0
    positions = composition.positions
    return replace(
        prepared,
        composition=replace(
            composition,
            token_ids=composition.token_ids[cut : cut + num_kept],
            # Of text alone they count from 0 wherever it begins.
            positions=None if positions is None else positions[:, :num_kept],
        ),
    )
