"""An answer as it comes, and what it used."""

import sys

from openai import OpenAI

openai_api_base = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:8000/v1"
client = OpenAI(api_key="EMPTY", base_url=openai_api_base)
model = client.models.list().data[0].id

stream = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": "What color is the sky?"}],
    stream=True,
    stream_options={"include_usage": True},
    max_completion_tokens=32,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    else:
        print(f"\n{chunk.usage.prompt_tokens} tokens in, {chunk.usage.completion_tokens} out")
