"""``/v1/embeddings``: of texts, token ids, or one conversation with media."""

from __future__ import annotations

import base64
import struct
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from sensorium import PoolingParams
from sensorium_server_openai.answers.head import json_answer
from sensorium_server_openai.engine_port import PlainPrompt, Prompt
from sensorium_server_openai.flow import all_of
from sensorium_server_openai.protocol.embeddings import EmbeddingRequest
from sensorium_server_openai.routes.conversation import chat_prompt, priority_of, shown_tools
from sensorium_server_openai.service import Call, Service


async def embeddings(service: Service, body: EmbeddingRequest, call: Call) -> Response:
    """Each input as a vector."""
    service.check_task("embed", "/v1/embeddings")
    priority = priority_of(service.options, body.priority)
    answer_id = f"embd-{body.request_id or uuid.uuid4().hex}"
    call.log["answer"] = answer_id
    if body.user is not None:
        call.log["user"] = body.user[:128]
    prompts: list[Prompt] = [PlainPrompt(text, body.cache_salt) for text in body.inputs]
    if body.messages is not None:
        prompts = [
            chat_prompt(
                service.options,
                body,
                tools=shown_tools(body),
                opens_answer=False,  # as vLLM's: nothing is going to be answered
                salt=body.cache_salt,
            )
        ]
    pooling = PoolingParams(normalize=body.normalize)
    outputs = await all_of(
        [service.engine.embed(prompt, pooling, priority=priority) for prompt in prompts]
    )
    num_tokens = sum(len(output.prompt_token_ids) for output in outputs)
    service.metrics.prompt_tokens += num_tokens
    written = _base64 if body.encoding_format == "base64" else list

    def whole() -> dict[str, Any]:
        data = [
            {"object": "embedding", "index": index, "embedding": written(output.outputs.embedding)}
            for index, output in enumerate(outputs)
        ]
        return {
            "id": answer_id,
            "object": "list",
            "created": int(time.time()),
            "data": data,
            "model": body.model or service.model,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    size = sum(len(output.outputs.embedding) for output in outputs)
    return await json_answer(whole, num_entries=size)


def _base64(values: Sequence[float]) -> str:
    """Little-endian float32, as OpenAI's client reads it."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()
