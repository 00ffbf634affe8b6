"""OpenAI's own client: sync, async, streaming, tools, a parsed answer, tokens in and out."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Literal

from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

URL, PICTURE = sys.argv[1:]
ASK = {
    "model": "tiny-vl",
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": PICTURE}},
                {"type": "text", "text": "What shape is this?"},
            ],
        }
    ],
    "temperature": 0,
    "max_completion_tokens": 48,
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weigh",
        "parameters": {
            "type": "object",
            "properties": {"unit": {"enum": ["g", "kg"]}},
            "required": ["unit"],
            "additionalProperties": False,
        },
    },
}


class Shape(BaseModel):
    sides: Literal[3, 4]


client = OpenAI(base_url=URL + "/v1", api_key="k")
whole = client.chat.completions.create(**ASK).choices[0].message.content
assert whole
chunks = client.chat.completions.create(stream=True, **ASK)
assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole


async def elsewhere() -> None:
    async with AsyncOpenAI(base_url=URL + "/v1", api_key="k") as other:
        answer = await other.chat.completions.create(**ASK)
        assert answer.choices[0].message.content == whole
        stream = await other.chat.completions.create(stream=True, **ASK)
        pieces = [c.choices[0].delta.content or "" async for c in stream]
        assert "".join(pieces) == whole


asyncio.run(elsewhere())
called = client.chat.completions.create(
    tools=[TOOL], tool_choice={"type": "function", "function": {"name": "weigh"}}, **ASK
)
[call] = called.choices[0].message.tool_calls or []
assert call.function.name == "weigh"
assert json.loads(call.function.arguments)["unit"] in ("g", "kg")
parsed = client.chat.completions.parse(response_format=Shape, **ASK).choices[0].message.parsed
assert isinstance(parsed, Shape)
with client.chat.completions.stream(response_format=Shape, **ASK) as events:
    for _ in events:
        pass
    assert events.get_final_completion().choices[0].message.parsed == parsed
print(whole)
