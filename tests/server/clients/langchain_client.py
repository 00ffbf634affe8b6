"""LangChain's chat class for OpenAI's API, with a picture: whole, streamed, a tool, a form."""

from __future__ import annotations

import sys
from typing import Literal

from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

URL, PICTURE = sys.argv[1:]
model = ChatOpenAI(
    model="tiny-vl", base_url=URL + "/v1", api_key="k", temperature=0, max_tokens=48, timeout=300
)
message = HumanMessage(
    [
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "text", "text": "What shape is this?"},
    ]
)
answer = model.invoke([message])
assert answer.text
assert answer.usage_metadata["input_tokens"] > 20
assert "".join(chunk.text for chunk in model.stream([message])) == answer.text
block = {"type": "image", "base64": PICTURE.partition(",")[2], "mime_type": "image/png"}
same = model.invoke([HumanMessage([block, message.content[1]])])
assert same.text == answer.text
assert [a.text for a in model.batch([[message], [message]])] == [answer.text] * 2


@tool
def weigh(unit: Literal["g", "kg"]) -> str:
    """Weighs."""
    return unit


weighing = model.bind_tools([weigh], tool_choice="weigh", strict=True)
[call] = weighing.invoke([message]).tool_calls
assert call["name"] == "weigh"
assert call["args"]["unit"] in ("g", "kg")


class Shape(BaseModel):
    sides: Literal[3, 4]


parsed = model.with_structured_output(Shape, method="json_schema").invoke([message])
assert isinstance(parsed, Shape)
print(answer.text)
