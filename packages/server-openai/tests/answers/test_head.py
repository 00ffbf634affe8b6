"""An event that is put together from its parts is the event that is written as a whole."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.outputs import CompletionOutput, RequestOutput
from sensorium_server_openai.answers import head
from sensorium_server_openai.answers.chat import ChatChunks, ChatShape
from sensorium_server_openai.answers.completion import CompletionChunks, CompletionShape
from sensorium_server_openai.answers.head import Head, TextEvents, Usage

TEXTS = st.text(max_size=20) | st.sampled_from(
    ['"', "\\", '"content":""', "\ud800", "\u2028", "\0", "é 😀"]
)


def chunk(model: str, text: str) -> dict[str, Any]:
    return {"model": model, "choices": [{"delta": {"content": text}, "finish_reason": None}]}


@given(model=TEXTS, text=TEXTS)
def test_parts_make_the_whole(model: str, text: str) -> None:
    made = TextEvents(chunk(model, ""), "content").event(text)
    assert made.endswith(b"\n\n")
    assert json.loads(made.removeprefix(b"data: ")) == chunk(model, text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS, inner, max_size=6),
)


@given(value=st.dictionaries(TEXTS, JSON, max_size=6))
async def test_a_large_answer_is_written_as_a_small_one(value: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(head, "_FEW", 2)
        large = await head.json_answer(lambda: value, num_entries=10**6)
    small = await head.json_answer(lambda: value, num_entries=1)
    assert json.loads(large.body) == json.loads(small.body) == value
    assert large.headers["content-length"] == str(len(large.body))


async def test_a_large_answer_is_made_on_another_thread() -> None:
    threads: list[int] = []

    def made() -> dict[str, Any]:
        threads.append(threading.get_ident())
        return {"data": [0.5] * 10_000}

    answer = await head.json_answer(made, num_entries=10_000)
    assert threads != [threading.get_ident()]
    assert json.loads(answer.body) == {"data": [0.5] * 10_000}


def outputs(*texts: str) -> list[RequestOutput]:
    """A stream of deltas."""
    return [
        RequestOutput(
            "r",
            "prompt",
            (5, 6),
            (CompletionOutput(0, text, (7,), finish_reason="stop" if is_last else None),),
            is_last,
        )
        for text, is_last in ((text, text is texts[-1]) for text in texts)
    ]


@pytest.mark.parametrize("usage_always", [False, True])
def test_chunks_differ_in_nothing_but_what_is_asked_for(usage_always: bool) -> None:
    """With usage in every chunk, all are written as a whole; without it, most from parts."""
    texts = ("a", "", 'b"', "c")
    chat = ChatChunks(Head("i", "m", 1), ChatShape(usage_always=usage_always), Usage(False))
    completion = CompletionChunks(
        Head("i", "m", 1), CompletionShape(usage_always=usage_always), [""], Usage(False)
    )
    found = [[json.loads(e[6:]) for o in outputs(*texts) for e in chat.take(o)]]
    found.append([json.loads(e[6:]) for o in outputs(*texts) for e in completion.take(0, o)])
    for events in found:
        assert all(entry.pop("usage", None) is not None for entry in events) == usage_always
    said = [[c["delta"].get("content", "") for e in found[0] for c in e["choices"]]]
    said.append([c["text"] for e in found[1] for c in e["choices"]])
    assert ["".join(pieces) for pieces in said] == ['ab"c'] * 2
    keys = {"index", "delta", "logprobs", "finish_reason"}
    assert all(c.keys() - {"stop_reason"} == keys for e in found[0] for c in e["choices"])
    keys = {"index", "text", "logprobs", "finish_reason", "stop_reason"}
    assert all(c.keys() == keys for e in found[1] for c in e["choices"])
