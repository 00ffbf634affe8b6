"""Chat templates: Jinja source from a checkpoint, run in a sandbox.

A template sees plain values only (text, numbers, lists, mappings), and what it may call is
what transformers' templates rely on. Knows nothing of media or of tokens.
"""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import jinja2

from sensorium.errors import ConfigError, RequestError
from sensorium.tokenizer.content_format import ContentFormat, Contents, probe_contents
from sensorium.tokenizer.meter import Meter, TemplateLimitError, TemplateLimits
from sensorium.tokenizer.sandbox import APART, METER, ChatEnvironment

#: Characters of a template, compiled before anything is metered.
_LONGEST_SOURCE = 2**17
_LONGEST_DATE = 100
DEFAULT_LIMITS = TemplateLimits()


class ChatTemplate:
    """One template, compiled.

    Args:
        source: the template.
        specials: "bos_token" and the like → text, visible to the template.
        tools_source: used instead where a conversation has tools.
        limits: what a run may take.
        of_processor: it belongs to a checkpoint with a processor, whose prompts begin with
            BOS whether the template writes it or not (transformers' rule: a processor adds
            it where it is missing, a tokenizer never does).
        is_logged: what is unclear about it is logged, with its beginning.

    Raises:
        ConfigError: a syntax error, with its line, or a template that is too long.
    """

    def __init__(
        self,
        source: str,
        specials: Mapping[str, str],
        tools_source: str | None = None,
        *,
        of_processor: bool = False,
        limits: TemplateLimits = DEFAULT_LIMITS,
        is_logged: bool = True,
    ) -> None:
        self.source = source
        self._specials = dict(specials)
        self._template = _compile(source)
        self._tools_template = self._template if tools_source is None else _compile(tools_source)
        self._of_processor = of_processor
        self._limits = limits
        self._is_logged = is_logged

    @property
    def content_format(self) -> ContentFormat:
        """The form of a message's content that it takes: "openai", a list of parts, or "string"."""
        return self._contents.content_format

    @property
    def takes_strings(self) -> bool:
        """Whether it takes a plain string, too, where it iterates over parts."""
        return self._contents.takes_strings

    @cached_property
    def _contents(self) -> Contents:
        return probe_contents(
            lambda messages: self.render(messages, add_generation_prompt=True),
            self.source if self._is_logged else None,
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        /,  # a variable may have any name
        *,
        add_generation_prompt: bool,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **variables: Any,
    ) -> str:
        """The prompt's text.

        Args:
            continue_final_message: end where the last message's text ends, so that the
                model goes on with it.
            variables: further variables of the template.

        Raises:
            RequestError: the template refused the conversation, or failed on it.
        """
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other."
            )
        # A key without a value counts as absent, since clients send fields that they leave empty.
        plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
        end_mark = ""
        if continue_final_message:
            end_mark = f"end{secrets.token_hex(8)} "
            plain = _with_end_mark(plain, end_mark)
        template = self._tools_template if tools else self._template
        values = {**self._specials, "documents": None, **variables}
        values["tools"] = list(tools) if tools else None
        values["add_generation_prompt"] = add_generation_prompt
        text = _render(template, plain, values, self._limits)
        return _cut_at(text, end_mark) if end_mark else text

    def needs_specials(self, rendered: str) -> bool:
        """Whether the tokenizer must add BOS (and EOS) to this prompt."""
        bos = self._specials.get("bos_token")
        return self._of_processor and not (bos and rendered.startswith(bos))


# --- rendering ------------------------------------------------------------------------


def _render(
    template: jinja2.Template,
    messages: list[dict[str, Any]],
    values: dict[str, Any],
    limits: TemplateLimits,
) -> str:
    """The text; where the template fails on a message without content, it gets empty text.

    Leaving content out is transformers' way with messages that hold tool calls alone, but templates
    that join strings fail on it.
    """
    try:
        return _run(template, messages, values, limits)
    except RequestError as error:
        if all("content" in message for message in messages):
            raise
        failure = error
    try:
        with_empty = [{"content": "", **message} for message in messages]
        return _run(template, with_empty, values, limits)
    except RequestError:
        raise failure from None


def _run(
    template: jinja2.Template,
    messages: Sequence[Mapping[str, Any]],
    values: Mapping[str, Any],
    limits: TemplateLimits,
) -> str:
    token = METER.set(Meter(limits, APART))
    try:
        return template.render({**values, "messages": messages})
    except _Refusal as refusal:
        raise RequestError(f"The chat template refuses this conversation: {refusal}") from None
    except TemplateLimitError as error:
        raise RequestError(f"The chat template was stopped: {error}") from None
    except RecursionError:
        raise RequestError("The chat template recurses too deeply on this conversation.") from None
    except Exception as error:
        raise RequestError(f"The chat template fails on this conversation: {error}") from None
    finally:
        METER.reset(token)


def _with_end_mark(messages: list[dict[str, Any]], mark: str) -> list[dict[str, Any]]:
    """A copy whose last text ends with ``mark``, a word and a space."""
    last = dict(messages[-1]) if messages else {}
    content = last.get("content")
    if isinstance(content, str):
        last["content"] = content + mark
        return [*messages[:-1], last]
    parts = list(content) if isinstance(content, Sequence) else []
    for i in reversed(range(len(parts))):
        if isinstance(parts[i].get("text"), str):
            parts[i] = {**parts[i], "text": parts[i]["text"] + mark}
            last["content"] = parts
            return [*messages[:-1], last]
    raise RequestError("continue_final_message was given, but the last message has no text.")


def _cut_at(text: str, mark: str) -> str:
    end = text.rfind(mark.rstrip())
    if end < 0:
        raise RequestError(
            "continue_final_message was given, but the chat template leaves out the last "
            "message's text."
        )
    # The mark ends with a space: where that is gone, the template trims what it prints, and
    # would have trimmed the text before the mark.
    return text[:end] if text.startswith(mark, end) else text[:end].rstrip()


# --- the environment ------------------------------------------------------------------


class _Refusal(jinja2.TemplateError):
    """``raise_exception`` was called in a template."""


def _raise_exception(message: str) -> None:
    raise _Refusal(str(message))


def _strftime_now(pattern: str) -> str:
    if len(pattern) > _LONGEST_DATE or re.search(r"\d{3,}", pattern):
        raise TemplateLimitError("it formats a date with a pattern that is too long.")
    return datetime.datetime.now().strftime(pattern)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of Jinja's own filter."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


@lru_cache(maxsize=32)
def _compile(source: str) -> jinja2.Template:
    if len(source) > _LONGEST_SOURCE:
        raise ConfigError(
            f"The chat template has {len(source)} characters; allowed are {_LONGEST_SOURCE}."
        )
    environment = ChatEnvironment(
        {"raise_exception": _raise_exception, "strftime_now": _strftime_now}, {"tojson": _to_json}
    )
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"The chat template has a syntax error in line {error.lineno}: {error.message}"
        ) from None
    except (RecursionError, SyntaxError):
        raise ConfigError("The chat template is nested too deeply.") from None
