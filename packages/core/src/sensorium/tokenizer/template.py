"""Chat templates: Jinja source from a checkpoint, run in a sandbox.

A template sees plain values only (text, numbers, lists, mappings), and what it may call is
what transformers' templates rely on. Knows nothing of media or of tokens.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sensorium.checkpoint import read_json
from sensorium.errors import ConfigError, RequestError
from sensorium.tokenizer.content_format import iterates_over_parts, tells_strings_apart
from sensorium.tokenizer.settings import named_templates, template_files

if TYPE_CHECKING:
    from sensorium.tokenizer.tokenizer import Tokenizer

ContentFormat = Literal["openai", "string"]
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "chat_template.json")


class ChatTemplate:
    """One template, compiled.

    Args:
        source: the template.
        specials: "bos_token" and the like → text, visible to the template.
        tools_source: used instead where a conversation has tools.
        of_processor: it belongs to a checkpoint with a processor, whose prompts begin with
            BOS whether the template writes it or not (transformers' rule: a processor adds
            it where it is missing, a tokenizer never does).

    Raises:
        ConfigError: a syntax error, with its line.
    """

    def __init__(
        self,
        source: str,
        specials: Mapping[str, str],
        tools_source: str | None = None,
        *,
        of_processor: bool = False,
    ) -> None:
        self.source = source
        self._specials = dict(specials)
        self._template, tree = _compile(source)
        self._tools_template = self._template if tools_source is None else _compile(tools_source)[0]
        self._of_processor = of_processor
        self.content_format: ContentFormat = "openai" if iterates_over_parts(tree) else "string"
        #: Whether, where it iterates over parts, it takes a plain string as well.
        self.takes_strings = self.content_format == "string" or tells_strings_apart(tree)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
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
            variables: whatever else the template understands.

        Raises:
            RequestError: the template refused the conversation, or failed on it.
        """
        if continue_final_message and add_generation_prompt:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other."
            )
        # A key without a value counts as absent: clients write out what they leave empty.
        plain = [{k: v for k, v in message.items() if v is not None} for message in messages]
        end_mark = ""
        if continue_final_message:
            end_mark = f"end{secrets.token_hex(8)} "
            plain = _with_end_mark(plain, end_mark)
        template = self._tools_template if tools else self._template
        values = {**self._specials, "documents": None, **variables}
        values["tools"] = list(tools) if tools else None
        values["add_generation_prompt"] = add_generation_prompt
        text = _render(template, plain, values)
        return _cut_at(text, end_mark) if end_mark else text

    def needs_specials(self, rendered: str) -> bool:
        """Whether the tokenizer must add BOS (and EOS) to this prompt."""
        bos = self._specials.get("bos_token")
        return self._of_processor and not (bos and rendered.startswith(bos))


def load_template(
    explicit: str | None, checkpoint_folder: Path, tokenizer: Tokenizer, fallback: str | None
) -> ChatTemplate | None:
    """Finds the engine's template.

    Order: ``explicit`` (a path or a template) → the processor's → the tokenizer's →
    ``fallback`` (the family's). None: there is none, and a conversation can't be served.

    Raises:
        ConfigError: ``explicit`` is neither a file nor a template, or a syntax error.
    """
    of_processor = any((checkpoint_folder / name).is_file() for name in _PROCESSOR_FILES)
    if explicit is not None:
        found = {"default": _read_explicit(explicit)}
    else:
        found = (_processor_templates(checkpoint_folder) if of_processor else {}) or dict(
            tokenizer.chat_templates
        )
    source = found.get("default", fallback)
    if source is None:
        return None
    return ChatTemplate(
        source, tokenizer.special_tokens, found.get("tool_use"), of_processor=of_processor
    )


def _processor_templates(folder: Path) -> dict[str, str]:
    """As the processor's files give it: in its config, in a file of its own, or as Jinja."""
    for name in _PROCESSOR_FILES:
        found = named_templates((read_json(folder / name) or {}).get("chat_template"))
        if found:
            return found
    return template_files(folder)


def _read_explicit(explicit: str) -> str:
    if "\n" in explicit or "{" in explicit:
        return explicit
    file = Path(explicit)
    if not file.is_file():
        raise ConfigError(
            f"chat_template is {explicit!r}, which is neither a file nor a Jinja template."
        )
    return file.read_text(encoding="utf-8")


# --- rendering ------------------------------------------------------------------------


def _render(
    template: jinja2.Template, messages: list[dict[str, Any]], values: dict[str, Any]
) -> str:
    """The text; where the template fails on a message without content, it gets empty text.

    Leaving content out is transformers' way with messages that hold tool calls alone, but templates
    that join strings fail on it.
    """
    try:
        return _run(template, messages, values)
    except RequestError as error:
        if all("content" in message for message in messages):
            raise
        failure = error
    try:
        return _run(template, [{"content": "", **message} for message in messages], values)
    except RequestError:
        raise failure from None


def _run(template: jinja2.Template, messages: list[dict[str, Any]], values: dict[str, Any]) -> str:
    try:
        return template.render(messages=messages, **values)
    except _Refusal as refusal:
        raise RequestError(f"The chat template refuses this conversation: {refusal}") from None
    except jinja2.TemplateError as error:
        raise RequestError(f"The chat template fails on this conversation: {error}") from None
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        raise RequestError(f"The chat template fails on this conversation: {error}") from None
    except RecursionError:
        raise RequestError("The chat template recurses too deeply on this conversation.") from None


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


# --- the sandbox ----------------------------------------------------------------------


class _Refusal(jinja2.TemplateError):
    """``raise_exception`` was called in a template."""


class _GenerationTag(Extension):
    """``{% generation %}`` marks assistants' text for training; here it only prints its body."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise _Refusal(str(message))


def _strftime_now(pattern: str) -> str:
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
def _compile(source: str) -> tuple[jinja2.Template, nodes.Template]:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(source), environment.parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(
            f"The chat template has a syntax error in line {error.lineno}: {error.message}"
        ) from None
