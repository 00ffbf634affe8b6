"""``/v1/chat/completions``."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.responses import Response

from sensorium import RequestOutput
from sensorium.structured_outputs import StructuredOutputs
from sensorium_server_openai.answers.chat import ChatChunks, ChatShape, whole_chat
from sensorium_server_openai.answers.head import Head, Usage, json_answer
from sensorium_server_openai.answers.logprobs import num_logprobs
from sensorium_server_openai.flow import EventStream, last
from sensorium_server_openai.observation import Observation
from sensorium_server_openai.protocol.chat import ChatRequest
from sensorium_server_openai.protocol.structured import structured_outputs_of
from sensorium_server_openai.routes.conversation import chat_prompt, priority_of
from sensorium_server_openai.service import Call, Service
from sensorium_server_openai.tools.choice import plan_tools


async def chat(service: Service, body: ChatRequest, call: Call) -> Response:
    """Answers a conversation."""
    service.check_task("generate", "/v1/chat/completions")
    structured = structured_outputs_of(body.response_format, body.structured_outputs)
    tools = plan_tools(service, body, is_structured=structured is not None)
    if tools.schema is not None:
        structured = StructuredOutputs(json=tools.schema)
    own: dict[str, Any] = {"max_tokens": body.max_new_tokens, "logprobs": body.num_logprobs}
    own["structured_outputs"] = structured
    if tools.needs_special_tokens:
        own["skip_special_tokens"] = False
    prompt = chat_prompt(service.options, body, tools=tools.shown, salt=body.cache_salt)
    stream = bool(body.stream)
    sampling = body.sampling(**own)
    outputs = service.engine.answer(
        prompt,
        sampling,
        stream=stream,
        priority=priority_of(service.options, body.priority),
    )
    head = Head(f"chatcmpl-{body.request_id or uuid.uuid4().hex}", body.model or service.model)
    usage = Usage(service.options.prompt_tokens_details)
    wanted = body.stream_options
    shape = ChatShape(
        n=body.n or 1,
        num_logprobs=body.top_logprobs or 0,
        token_ids=bool(body.return_token_ids),
        tokens_as_ids=bool(body.return_tokens_as_token_ids),
        usage_at_end=wanted is not None and wanted.include_usage,
        usage_always=wanted is not None and wanted.continuous_usage_stats,
        make_reader=tools.make_reader,
    )
    call.log["answer"] = head.answer_id
    if body.user is not None:
        call.log["user"] = body.user[:128]
    watch = service.observe(call, sampling)
    if not stream:
        output = await last(outputs)
        watch.whole(output)
        return await json_answer(
            lambda: whole_chat(head, shape, output, usage), num_entries=num_logprobs(output)
        )
    first = await anext(outputs)
    events = _events(first, outputs, ChatChunks(head, shape, usage), watch)
    return EventStream(events, deadline_s=call.deadline_s, tell_error=call.tell_error)


async def _events(
    first: RequestOutput,
    others: AsyncIterator[RequestOutput],
    chunks: ChatChunks,
    watch: Observation,
) -> AsyncIterator[bytes]:
    async with aclosing(others) as stream:  # type: ignore[type-var]
        watch.streamed(first)
        yield b"".join(chunks.take(first))
        async for output in stream:
            watch.streamed(output)
            data = b"".join(chunks.take(output))
            if data:
                yield data
    data = b"".join(chunks.end())
    if data:
        yield data
