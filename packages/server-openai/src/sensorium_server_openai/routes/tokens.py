"""``/tokenize`` and ``/detokenize``."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from sensorium_server_openai.answers.head import json_answer, json_response
from sensorium_server_openai.engine_port import PlainPrompt, Prompt
from sensorium_server_openai.protocol.tokens import DetokenizeRequest, TokenizeRequest
from sensorium_server_openai.routes.conversation import chat_prompt, shown_tools
from sensorium_server_openai.service import Call, Service


async def tokenize(service: Service, body: TokenizeRequest, call: Call) -> Response:
    """The token ids of a text, or of a conversation with its media in place."""
    prompt: Prompt = PlainPrompt(body.prompt or "")
    if body.messages is not None:
        prompt = chat_prompt(service.options, body, tools=shown_tools(body))
    specials = body.add_special_tokens is not False
    token_ids = await service.engine.tokenize(prompt, add_special_tokens=specials)

    def whole() -> dict[str, Any]:
        found: dict[str, Any] = {
            "count": len(token_ids),
            "max_model_len": service.engine.facts.max_model_len,
            "tokens": token_ids,
        }
        if body.return_token_strs:
            name = service.engine.tokenizer.id_to_token
            found["token_strs"] = [name(token_id) for token_id in token_ids]
        return found

    return await json_answer(whole, num_entries=len(token_ids))


async def detokenize(service: Service, body: DetokenizeRequest, call: Call) -> Response:
    """The text of token ids."""
    return json_response({"prompt": await service.engine.decode(body.tokens)})
