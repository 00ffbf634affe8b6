"""A completion's answer: whole, or as the chunks of a stream; of one prompt or of many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sensorium import RequestOutput
from sensorium.outputs import CompletionOutput
from sensorium_server_openai.answers.head import Head, TextEvents, Usage, event
from sensorium_server_openai.answers.logprobs import completion_logprobs, prompt_logprobs


@dataclass(frozen=True, slots=True)
class CompletionShape:
    """What the client wants to see.

    Attributes:
        n: answers to each prompt; the choices of prompt i begin at i times n.
        num_logprobs: best tokens named at each place; None: no log-probabilities.
        echo: whether the prompt stands in front of the answer.
        prompt_logprobs: whether the prompt's log-probabilities are shown by themselves.
        others: as in ``ChatShape``.
    """

    n: int = 1
    num_logprobs: int | None = None
    echo: bool = False
    prompt_logprobs: bool = False
    token_ids: bool = False
    tokens_as_ids: bool = False
    usage_at_end: bool = False
    usage_always: bool = False


def whole_completion(
    head: Head,
    shape: CompletionShape,
    outputs: Sequence[RequestOutput],
    prompts: Sequence[str],
    usage: Usage,
    text_of: Callable[[int], str],
) -> dict[str, Any]:
    """The answer as one object.

    Args:
        outputs: one for each prompt.
        prompts: the prompts' texts; read only where they are echoed.
        text_of: the text of one token.
    """
    choices = []
    for place, output in enumerate(outputs):
        usage.add_prompt(output)
        usage.add_answers(output)
        for answer in output.outputs:
            choices.append(_choice(shape, place, output, answer, prompts[place], text_of))
    return {**head.fields("text_completion", choices), "usage": usage.fields()}


def _choice(
    shape: CompletionShape,
    place: int,
    output: RequestOutput,
    answer: CompletionOutput,
    prompt: str,
    text_of: Callable[[int], str],
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "index": place * shape.n + answer.index,
        "text": prompt + answer.text if shape.echo else answer.text,
        "logprobs": None,
        "finish_reason": answer.finish_reason,
        "stop_reason": answer.stop_reason,
    }
    if shape.num_logprobs is not None:
        ids: Sequence[int] = answer.token_ids
        entries: list[Any] = list(answer.logprobs or ())
        if shape.echo:
            ids = [*output.prompt_token_ids, *ids]
            entries = [*(output.prompt_logprobs or ()), *entries]
        found["logprobs"] = completion_logprobs(
            ids,
            entries,
            shape.num_logprobs,
            as_ids=shape.tokens_as_ids,
            first_text=text_of(ids[0]) if shape.echo else "",
        )
    if shape.prompt_logprobs:
        found["prompt_logprobs"] = prompt_logprobs(output.prompt_logprobs)
    if shape.token_ids:
        found["prompt_token_ids"] = list(output.prompt_token_ids)
        found["token_ids"] = list(answer.token_ids)
    return found


class CompletionChunks:
    """One answer's chunks; the prompts' outputs come in any order."""

    def __init__(
        self, head: Head, shape: CompletionShape, prompts: Sequence[str], usage: Usage
    ) -> None:
        self._head = head
        self._shape = shape
        self._prompts = prompts
        self._usage = usage
        self._places: set[int] = set()
        self._begun: set[int] = set()  # choices
        self._offsets: dict[int, int] = {}
        self._texts: dict[int, TextEvents] = {}  # of choices that show nothing but text
        self._texts_alone = not (shape.token_ids or shape.usage_always)
        self._texts_alone &= shape.num_logprobs is None

    def take(self, place: int, output: RequestOutput) -> Iterator[bytes]:
        """The chunks of what is new of the prompt at this place."""
        if place not in self._places:
            self._places.add(place)
            self._usage.add_prompt(output)
        self._usage.add_answers(output)
        for answer in output.outputs:
            index = place * self._shape.n + answer.index
            if index in self._texts and answer.finish_reason is None:
                if answer.text:
                    yield self._texts[index].event(answer.text)
                continue
            first = index not in self._begun
            self._begun.add(index)
            echoed = self._prompts[place] if first and self._shape.echo else ""
            if echoed or answer.text or answer.finish_reason is not None or self._shows(answer):
                yield self._event([self._choice(index, output, answer, echoed, first)])
            if self._texts_alone and answer.finish_reason is None:
                self._texts[index] = self._text_events(index, output, answer)

    def end(self) -> Iterator[bytes]:
        """What follows the last chunk of every choice."""
        if self._shape.usage_at_end:
            yield self._event([], usage=True)

    def _text_events(
        self, index: int, output: RequestOutput, answer: CompletionOutput
    ) -> TextEvents:
        choice = {**self._choice(index, output, answer, "", False), "text": ""}
        return TextEvents(self._head.fields("text_completion", [choice]), "text")

    def _shows(self, answer: CompletionOutput) -> bool:
        """Whether tokens are shown that have no text (yet)."""
        wanted = self._shape.token_ids or self._shape.num_logprobs is not None
        return wanted and bool(answer.token_ids)

    def _choice(
        self, index: int, output: RequestOutput, answer: CompletionOutput, echoed: str, first: bool
    ) -> dict[str, Any]:
        found: dict[str, Any] = {
            "index": index,
            "text": echoed + answer.text,
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
        }
        if self._shape.num_logprobs is not None:
            offset = self._offsets.get(index, 0)
            found["logprobs"] = completion_logprobs(
                answer.token_ids,
                answer.logprobs or (),
                self._shape.num_logprobs,
                as_ids=self._shape.tokens_as_ids,
                offset=offset,
            )
            self._offsets[index] = offset + sum(map(len, found["logprobs"]["tokens"]))
        if self._shape.token_ids:
            if first:
                found["prompt_token_ids"] = list(output.prompt_token_ids)
            found["token_ids"] = list(answer.token_ids)
        return found

    def _event(self, choices: list[dict[str, Any]], *, usage: bool = False) -> bytes:
        fields = self._head.fields("text_completion", choices)
        if usage or self._shape.usage_always:
            fields["usage"] = self._usage.fields()
        return event(fields)
