"""Reading the decoder out of configs that hold a tower beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError
from sensorium.models.families import read_decoder_config, read_dtype


def nested_decoder(
    config: Mapping[str, Any], text: Mapping[str, Any], style: str | None = None
) -> DecoderConfig:
    """The decoder of a ``config.json`` whose decoder is described by ``text``.

    Args:
        text: ``text_config``, or whatever stands for it, with the class's defaults filled in.
        style: as ``read_decoder_config``.

    Raises:
        ConfigError: a value that is missing, of the wrong type or not built.
    """
    decoder = read_decoder_config({**config, "text_config": text}, style)
    # transformers wrote the entry into the inner config, the outer or both over the years,
    # and takes the matrices as tied if either says so.
    tied = bool(config.get("tie_word_embeddings")) or bool(text.get("tie_word_embeddings"))
    # The outer dtype is that in which the whole checkpoint was saved.
    outer = read_dtype({key: config.get(key) for key in ("dtype", "torch_dtype")})
    return replace(decoder, tied=tied, dtype=outer or decoder.dtype)


def text_section(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """``text_config``; None if there is none.

    Raises:
        ConfigError: something that is no object stands there.
    """
    text = config.get("text_config")
    if text is not None and not isinstance(text, Mapping):
        raise ConfigError(f"config.json: text_config is {text!r}; it must be an object.")
    return text
