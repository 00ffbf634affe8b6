"""``/v1/completions``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from sensorium import RequestOutput
from sensorium_server_openai.answers.completion import (
    CompletionChunks,
    CompletionShape,
    whole_completion,
)
from sensorium_server_openai.answers.head import Head, Usage, json_answer
from sensorium_server_openai.answers.logprobs import num_logprobs
from sensorium_server_openai.engine_port import PlainPrompt
from sensorium_server_openai.flow import EventStream, all_of, last, merged
from sensorium_server_openai.observation import Observation
from sensorium_server_openai.protocol.completions import CompletionRequest
from sensorium_server_openai.protocol.structured import structured_outputs_of
from sensorium_server_openai.routes.conversation import priority_of
from sensorium_server_openai.service import Call, Service

#: OpenAI's own default.
_MAX_TOKENS = 16


async def completions(service: Service, body: CompletionRequest, call: Call) -> Response:
    """Goes on where each prompt ends."""
    service.check_task("generate", "/v1/completions")
    own: dict[str, Any] = {"logprobs": body.logprobs}
    own["max_tokens"] = _MAX_TOKENS if body.max_tokens is None else body.max_tokens
    if body.echo and body.logprobs is not None:
        own["prompt_logprobs"] = body.logprobs
    structured = structured_outputs_of(body.response_format, body.structured_outputs)
    own["structured_outputs"] = structured
    sampling = body.sampling(**own)
    stream = bool(body.stream)
    priority = priority_of(service.options, body.priority)
    prompts = body.prompts
    runs = [
        service.engine.answer(
            PlainPrompt(prompt, body.cache_salt), sampling, stream=stream, priority=priority
        )
        for prompt in prompts
    ]
    wanted = body.stream_options
    shape = CompletionShape(
        n=body.n or 1,
        num_logprobs=body.logprobs,
        echo=bool(body.echo),
        prompt_logprobs=body.prompt_logprobs is not None,
        token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        usage_at_end=wanted is not None and wanted.include_usage,
        usage_always=wanted is not None and wanted.continuous_usage_stats,
    )
    head = Head(f"cmpl-{body.request_id or uuid.uuid4().hex}", body.model or service.model)
    usage = Usage(service.options.prompt_tokens_details)
    call.log["answer"] = head.answer_id
    if body.user is not None:
        call.log["user"] = body.user[:128]
    watches = [service.observe(call, sampling) for _ in runs]
    texts = await _texts(service, prompts) if shape.echo else [""] * len(prompts)
    if not stream:
        outputs = await all_of([last(run) for run in runs])
        for watch, output in zip(watches, outputs, strict=True):
            watch.whole(output)
        decode = service.engine.tokenizer.decode
        return await json_answer(
            lambda: whole_completion(
                head, shape, outputs, texts, usage, lambda token: decode([token])
            ),
            num_entries=sum(len(o.outputs) + num_logprobs(o) for o in outputs),
        )
    news = merged(runs)
    first = await anext(news)
    events = _events(first, news, CompletionChunks(head, shape, texts, usage), watches)
    return EventStream(events, deadline_s=call.deadline_s, tell_error=call.tell_error)


async def _texts(service: Service, prompts: list[str | list[int]]) -> list[str]:
    return [
        prompt if isinstance(prompt, str) else await service.engine.decode(prompt)
        for prompt in prompts
    ]


async def _events(
    first: tuple[int, RequestOutput],
    others: AsyncIterator[tuple[int, RequestOutput]],
    chunks: CompletionChunks,
    watches: list[Observation],
) -> AsyncIterator[bytes]:
    async with aclosing(others) as stream:  # type: ignore[type-var]
        place, output = first
        watches[place].streamed(output)
        yield b"".join(chunks.take(place, output))
        async for place, output in stream:
            watches[place].streamed(output)
            data = b"".join(chunks.take(place, output))
            if data:
                yield data
    data = b"".join(chunks.end())
    if data:
        yield data
