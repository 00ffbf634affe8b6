"""A chat's answer: whole, or as the chunks of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sensorium import RequestOutput
from sensorium.outputs import CompletionOutput
from sensorium_server_openai.answers.head import Head, TextEvents, Usage, event
from sensorium_server_openai.answers.logprobs import chat_logprobs, prompt_logprobs
from sensorium_server_openai.tools.reading import AnswerReader, MakeReader, ToolCalls


@dataclass(frozen=True, slots=True)
class ChatShape:
    """What the client wants to see.

    Attributes:
        n: answers to the conversation.
        num_logprobs: best tokens named at each place, if any were asked for.
        token_ids: whether ids are shown beside the text.
        tokens_as_ids: whether a token is written as its id where log-probabilities name it.
        usage_at_end, usage_always: chunks that say what was used.
        make_reader: finds tool calls in an answer's text.
    """

    n: int = 1
    num_logprobs: int = 0
    token_ids: bool = False
    tokens_as_ids: bool = False
    usage_at_end: bool = False
    usage_always: bool = False
    make_reader: MakeReader = AnswerReader


def whole_chat(head: Head, shape: ChatShape, output: RequestOutput, usage: Usage) -> dict[str, Any]:
    """The answer as one object."""
    usage.add_prompt(output)
    usage.add_answers(output)
    choices = [_choice(shape, answer) for answer in output.outputs]
    found = head.fields("chat.completion", choices)
    found["usage"] = usage.fields()
    if output.prompt_logprobs is not None:
        found["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
    if shape.token_ids:
        found["prompt_token_ids"] = list(output.prompt_token_ids)
    return found


def _choice(shape: ChatShape, answer: CompletionOutput) -> dict[str, Any]:
    reader = shape.make_reader()
    calls = ToolCalls()
    content = "".join(calls.take(said) for said in [*reader.feed(answer.text), *reader.finish()])
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if calls.whole:
        message["content"] = content or None
        message["tool_calls"] = calls.whole
    found = {
        "index": answer.index,
        "message": message,
        "logprobs": chat_logprobs(answer, shape.num_logprobs, as_ids=shape.tokens_as_ids),
        "finish_reason": _finish_reason(answer, called=bool(calls.whole)),
        "stop_reason": answer.stop_reason,
    }
    if shape.token_ids:
        found["token_ids"] = list(answer.token_ids)
    return found


def _finish_reason(answer: CompletionOutput, *, called: bool) -> str | None:
    """An answer that was cut off stays "length", even within a call."""
    return "tool_calls" if called and answer.finish_reason == "stop" else answer.finish_reason


class ChatChunks:
    """One answer's chunks, in order; it holds the state of this request and of no other."""

    def __init__(self, head: Head, shape: ChatShape, usage: Usage) -> None:
        self._head = head
        self._shape = shape
        self._usage = usage
        self._readers = {i: shape.make_reader() for i in range(shape.n)}
        self._calls = [ToolCalls() for _ in range(shape.n)]
        self._has_begun = False
        # Where all is content and nothing is shown beside it, chunks differ in their text alone.
        texts_alone = shape.make_reader is AnswerReader
        texts_alone &= not (shape.token_ids or shape.usage_always)
        self._texts = [self._text_events(i) for i in range(shape.n)] if texts_alone else []

    def take(self, output: RequestOutput) -> Iterator[bytes]:
        """The chunks of what is new."""
        if not self._has_begun:
            self._has_begun = True
            self._usage.add_prompt(output)
            yield from self._begin(output)
        self._usage.add_answers(output)
        for answer in output.outputs:
            if self._texts and answer.finish_reason is None and answer.logprobs is None:
                if answer.text:
                    yield self._texts[answer.index].event(answer.text)
            elif answer.index in self._readers:
                yield from self._answer(answer)

    def end(self) -> Iterator[bytes]:
        """What follows the last chunk of every choice."""
        if self._shape.usage_at_end:
            yield self._event([], usage=True)

    def _begin(self, output: RequestOutput) -> Iterator[bytes]:
        for index in range(self._shape.n):
            extra: dict[str, Any] = {}
            if self._shape.token_ids and index == 0:
                extra = {"prompt_token_ids": list(output.prompt_token_ids)}
            delta = {"role": "assistant", "content": ""}
            yield self._event([_chunk(index, delta)], **extra)

    def _answer(self, answer: CompletionOutput) -> Iterator[bytes]:
        index = answer.index
        reader, calls = self._readers[index], self._calls[index]
        said = reader.feed(answer.text)
        finished = answer.finish_reason is not None
        if finished:
            said += reader.finish()
        deltas = [delta for piece in said if (delta := calls.delta(piece))]
        extra = self._beside(answer)
        if extra and not deltas:
            deltas = [{"content": ""}]
        for delta in deltas:
            yield self._event([{**_chunk(index, delta), **extra}])
            extra = {}
        if finished:
            reason = _finish_reason(answer, called=calls.any)
            last = _chunk(index, {}, reason) | {"stop_reason": answer.stop_reason}
            yield self._event([last])
            del self._readers[index]

    def _text_events(self, index: int) -> TextEvents:
        chunk = _chunk(index, {"content": ""})
        return TextEvents(self._head.fields("chat.completion.chunk", [chunk]), "content")

    def _beside(self, answer: CompletionOutput) -> dict[str, Any]:
        """What a choice of a chunk says besides the text."""
        found: dict[str, Any] = {}
        if not answer.token_ids:
            return found
        logprobs = chat_logprobs(answer, self._shape.num_logprobs, as_ids=self._shape.tokens_as_ids)
        if logprobs is not None:
            found["logprobs"] = logprobs
        if self._shape.token_ids:
            found["token_ids"] = list(answer.token_ids)
        return found

    def _event(self, choices: list[dict[str, Any]], *, usage: bool = False, **extra: Any) -> bytes:
        fields = self._head.fields("chat.completion.chunk", choices)
        fields.update(extra)
        if usage or self._shape.usage_always:
            fields["usage"] = self._usage.fields()
        return event(fields)


def _chunk(
    index: int, delta: Mapping[str, Any], finish_reason: str | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
