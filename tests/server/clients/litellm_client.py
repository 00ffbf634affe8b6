"""LiteLLM's ``completion`` of an OpenAI-compatible server, with a picture: whole and streamed."""

from __future__ import annotations

import asyncio
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no request to another host

import litellm

URL, PICTURE = sys.argv[1:]
ASK = {
    "model": "openai/tiny-vl",
    "api_base": URL + "/v1",
    "api_key": "k",
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
    "max_tokens": 48,
    "timeout": 300,
}
answer = litellm.completion(**ASK).choices[0].message.content
assert answer
chunks = litellm.completion(stream=True, **ASK)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == answer
again = asyncio.run(litellm.acompletion(**ASK))
assert again.choices[0].message.content == answer
print(answer)
