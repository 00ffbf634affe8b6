"""OpenAI's own client: vectors of texts, one and many."""

from __future__ import annotations

import asyncio
import sys

from openai import AsyncOpenAI, OpenAI

URL = sys.argv[1]
client = OpenAI(base_url=URL + "/v1", api_key="k")
[name] = [card.id for card in client.models.list()]
one = client.embeddings.create(model=name, input="a red square").data[0].embedding
many = client.embeddings.create(model=name, input=["a red square", "blue"], encoding_format="float")
assert len(many.data) == 2
assert max(abs(a - b) for a, b in zip(one, many.data[0].embedding, strict=True)) < 1e-3
assert many.usage.prompt_tokens > 0


async def elsewhere() -> None:
    async with AsyncOpenAI(base_url=URL + "/v1", api_key="k") as other:
        again = await other.embeddings.create(model=name, input="a red square")
        assert len(again.data[0].embedding) == len(one)


asyncio.run(elsewhere())
print(len(one))
