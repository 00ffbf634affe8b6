"""Finds the engine's chat template in options, files and tokenizers; renders nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sensorium.checkpoint import read_json
from sensorium.errors import ConfigError
from sensorium.tokenizer.settings import named_templates, template_files
from sensorium.tokenizer.template import ChatTemplate
from sensorium.tokenizer.tokenizer import Tokenizer

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "chat_template.json")


def load_template(
    explicit: str | None,
    checkpoint_folder: Path,
    tokenizer: Tokenizer,
    fallback: str | None,
    named: Mapping[str, str] | None = None,
    *,
    trusted: bool = True,
) -> ChatTemplate | None:
    """Finds the engine's template.

    Order: ``explicit`` (a name, a path or a template) → the processor's → the tokenizer's →
    ``fallback`` (the family's). None: there is none, and a conversation can't be served.

    Args:
        named: name → template, those of the family that ``explicit`` may name.
        trusted: whether ``explicit`` may name a file, and be quoted in the log. A stranger's may
            not: what a template's file holds is what the prompt says.

    Raises:
        ConfigError: ``explicit`` is no name, no file and no template, or a syntax error.
    """
    of_processor = any((checkpoint_folder / name).is_file() for name in _PROCESSOR_FILES)
    if explicit is not None:
        found = {"default": _read_explicit(explicit, named or {}, trusted)}
    else:
        found = (_processor_templates(checkpoint_folder) if of_processor else {}) or dict(
            tokenizer.chat_templates
        )
    source = found.get("default", fallback)
    if source is None:
        return None
    return ChatTemplate(
        source,
        tokenizer.special_tokens,
        found.get("tool_use"),
        of_processor=of_processor,
        is_logged=trusted,
    )


def _processor_templates(folder: Path) -> dict[str, str]:
    """As the processor's files give it: in its config, in a file of its own, or as Jinja."""
    for name in _PROCESSOR_FILES:
        found = named_templates((read_json(folder / name) or {}).get("chat_template"))
        if found:
            return found
    return template_files(folder)


def _read_explicit(explicit: str, named: Mapping[str, str], trusted: bool) -> str:
    """A registered name counts before a path, and a path before a template that is written out."""
    name = explicit.removesuffix(".jinja")
    if name in named:
        return named[name]
    if "\n" in explicit or "{" in explicit:
        return explicit
    file = Path(explicit)
    if trusted and file.is_file():
        return file.read_text(encoding="utf-8")
    what = "neither a file nor a Jinja template" if trusted else "no Jinja template"
    names = f", no template of the model's family ({', '.join(sorted(named))})" * bool(named)
    raise ConfigError(f"chat_template is {explicit!r}, which is {what}{names}.")
