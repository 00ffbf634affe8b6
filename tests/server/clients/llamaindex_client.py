"""LlamaIndex' chat classes for OpenAI's API, with a picture: whole and streamed."""

from __future__ import annotations

import base64
import sys

from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.llms.openai_like import OpenAILike

URL, PICTURE = sys.argv[1:]
model = OpenAILike(
    model="tiny-vl",
    api_base=URL + "/v1",
    api_key="k",
    is_chat_model=True,
    temperature=0,
    max_tokens=48,
    timeout=300,
)
data = base64.b64decode(PICTURE.partition(",")[2])
blocks = [ImageBlock(image=data, image_mimetype="image/png"), TextBlock(text="What shape is this?")]
message = ChatMessage(role="user", blocks=blocks)
answer = model.chat([message]).message.content
assert answer
streamed = "".join(piece.delta or "" for piece in model.stream_chat([message]))
assert streamed == answer
assert model.complete("What shape").text
print(answer)
