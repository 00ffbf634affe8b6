"""A checkpoint's settings for generation: end-of-text ids and defaults of sampling.

Ids are checked against the model's vocabulary here, since later they index into logits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError, RequestError
from sensorium.sampling_params import NEUTRAL, SamplingParams
from sensorium.tokenizer import Tokenizer

logger = logging.getLogger("sensorium.engine")

_GENERATION, _CONFIG = "generation_config.json", "config.json"
#: Keys of the file → fields of ``SamplingParams``.
_FIELDS = {**{name: name for name in NEUTRAL}, "max_new_tokens": "max_tokens"}


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """How a checkpoint wants to be sampled.

    Attributes:
        eos_ids: end-of-text ids, all of them in the model's vocabulary.
        defaults: for fields of ``SamplingParams`` that a request leaves open.
        max_new_tokens: of a request without parameters; None: the file doesn't say.
    """

    eos_ids: frozenset[int]
    defaults: Mapping[str, Any]
    max_new_tokens: int | None

    @property
    def sampling(self) -> SamplingParams:
        """What a request without parameters gets."""
        if self.max_new_tokens is None:
            return SamplingParams(**self.defaults)
        return SamplingParams(**self.defaults, max_tokens=self.max_new_tokens)


def read_generation_config(
    name: str,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    vocab_size: int,
    generation_of: str | None = None,
) -> GenerationConfig:
    """Reads the files.

    Args:
        name: the checkpoint's, for messages.
        generation: ``generation_config.json``, {} to use none of it.
        config: ``config.json``.
        vocab_size: of the model.
        generation_of: the folder of ``generation``, for messages; None: it is the checkpoint's.

    Raises:
        ConfigError: a value that can't hold, with its file and key.
    """
    found = _defaults(generation_of or name, generation)
    return GenerationConfig(
        eos_ids=find_eos_ids(
            name, generation, config, tokenizer, vocab_size, generation_of, warns=True
        ),
        max_new_tokens=found.pop("max_tokens", None),
        defaults=found,
    )


def _defaults(name: str, generation: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, field in _FIELDS.items():
        value = generation.get(key)
        if value is None:
            continue
        try:
            SamplingParams(**{field: value})
        except RequestError as error:
            raise ConfigError(
                f"{_GENERATION} of {name} has {key}: {value!r}. {error} Mend the file, or pass "
                'generation_config="sensorium" for neutral values.'
            ) from error
        found[field] = value
    if generation.get("do_sample") is False:
        found["temperature"] = 0.0
    return found


def find_eos_ids(
    name: str,
    generation: Mapping[str, Any],
    config: Mapping[str, Any],
    tokenizer: Tokenizer,
    vocab_size: int,
    generation_of: str | None = None,
    *,
    warns: bool = False,
) -> frozenset[int]:
    """End-of-text ids: the generation config's, else ``config.json``'s, else the tokenizer's.

    Ids that the vocabulary lacks can never be drawn; where a file has no others, the next file is
    read. Arguments and errors are those of ``read_generation_config``.

    Args:
        warns: say which ids are left out.
    """
    own = _GENERATION, generation_of or name, generation.get("eos_token_id")
    for file, owner, value in (own, *_other_places(name, config, tokenizer)):
        ids = _listed(file, owner, value)
        kept = frozenset(i for i in ids if 0 <= i < vocab_size)
        if warns and (dropped := sorted(set(ids) - kept)):
            logger.warning(
                "%s of %s names the end-of-text ids %s, which the model's vocabulary of %d lacks; "
                "they are left out",
                file,
                owner,
                ", ".join(map(str, dropped)),
                vocab_size,
            )
        if kept:
            return kept
    return frozenset()


def _other_places(
    name: str, config: Mapping[str, Any], tokenizer: Tokenizer
) -> Iterator[tuple[str, str, Any]]:
    """(file, whose it is, its end-of-text ids) in order of precedence."""
    for part in (config, config.get("text_config") or {}):
        yield _CONFIG, name, part.get("eos_token_id")
    yield "the tokenizer", name, tokenizer.eos_token_id


def _listed(file: str, name: str, value: Any) -> list[int]:
    if value is None:
        return []
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids):
        raise ConfigError(
            f"{file} of {name} has eos_token_id: {value!r}; it must be a token id or a list of "
            "token ids."
        )
    return ids


def warn_of_large_ids(name: str, tokenizer: Tokenizer, vocab_size: int) -> None:
    """Says once that the tokenizer has tokens that the model can't read.

    Prompts that hold them are refused one by one.
    """
    largest = tokenizer.max_token_id
    if largest >= vocab_size:
        logger.warning(
            "the tokenizer of %s has ids up to %d, the model's vocabulary ends at %d; prompts "
            "with tokens beyond it are refused",
            name,
            largest,
            vocab_size - 1,
        )
