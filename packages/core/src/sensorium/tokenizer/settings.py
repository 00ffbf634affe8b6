"""Settings from the files beside ``tokenizer.json``: special tokens and chat templates.

Three generations of files are read (``special_tokens_map.json`` and ``added_tokens.json``
only where ``tokenizer_config.json`` doesn't list the added tokens itself). What is put around
a text (BOS, EOS) stands in ``tokenizer.json``: ``add_bos_token`` and ``add_eos_token`` say
nothing beside it, here as in transformers. Knows the files, not the tokenizer that is built
from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from sensorium.checkpoint import read_json
from sensorium.errors import ConfigError

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """One folder's settings.

    Attributes:
        named: "bos_token" and the like → the token's text.
        listed: added tokens as ``tokenizer_config.json`` lists them, by id; their flags win
            over those in ``tokenizer.json``.
        implied: tokens that are only mentioned; added where ``tokenizer.json`` lacks them.
        templates: name → chat template; the ordinary one is called "default".
    """

    named: Mapping[str, str]
    listed: tuple[AddedToken, ...]
    implied: tuple[AddedToken, ...]
    templates: Mapping[str, str]


def read_settings(folder: Path) -> TokenizerSettings:
    """Reads them; every file may be missing.

    Raises:
        ConfigError: a file that isn't what its name says.
    """
    config = dict(read_json(folder / "tokenizer_config.json") or {})
    listed = config.get("added_tokens_decoder")
    if listed is None:
        config = {**config, **(read_json(folder / "special_tokens_map.json") or {})}
    named = {key: _text(value) for key, value in config.items() if _names_token(key, value)}
    special = dict.fromkeys([*named.values(), *_extra_special_tokens(config)])
    implied = [] if listed is not None else _legacy_tokens(folder, set(special))
    implied += [AddedToken(text, special=True, normalized=False) for text in special]
    return TokenizerSettings(
        named=named,
        listed=tuple(_listed_tokens(listed or {}, folder)),
        implied=tuple(implied),
        templates=_templates(folder, config),
    )


def named_templates(value: Any) -> dict[str, str]:
    """The forms that a ``chat_template`` entry takes: text, a mapping, or a list of both's kind."""
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, Mapping):
        return {str(name): str(source) for name, source in value.items()}
    if isinstance(value, list):
        return {str(entry["name"]): str(entry["template"]) for entry in value}
    return {}


def template_files(folder: Path) -> dict[str, str]:
    """``chat_template.jinja`` as "default", and the named ones beside it."""
    found = {}
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = file.read_text(encoding="utf-8")
    if (folder / "chat_template.jinja").is_file():
        found["default"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return found


def _templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    return {**named_templates(config.get("chat_template")), **template_files(folder)}


def _names_token(key: str, value: Any) -> bool:
    return key.endswith("_token") and isinstance(_text(value), str)


def _text(value: Any) -> Any:
    """A token is written as its text, or as a mapping with the text in "content"."""
    return value.get("content") if isinstance(value, Mapping) else value


def _listed_tokens(listed: Mapping[str, Any], folder: Path) -> Iterator[AddedToken]:
    try:
        for _, token in sorted(listed.items(), key=lambda entry: int(entry[0])):
            flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token}
            yield AddedToken(str(token["content"]), **flags)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"{folder.name}/tokenizer_config.json has an added_tokens_decoder that isn't a "
            'mapping from token id to {"content": …}.'
        ) from None


def _legacy_tokens(folder: Path, special: set[str]) -> list[AddedToken]:
    added: Mapping[str, Any] = read_json(folder / "added_tokens.json") or {}
    return [
        AddedToken(text, special=text in special, normalized=text not in special)
        for text, _ in sorted(added.items(), key=lambda entry: int(entry[1]))
    ]


def _extra_special_tokens(config: Mapping[str, Any]) -> list[str]:
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    values = extra.values() if isinstance(extra, Mapping) else extra
    return [text for value in values if isinstance(text := _text(value), str)]
