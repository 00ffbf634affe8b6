"""Ultravox v0.5: Whisper's encoder, a projector, and a text model in another checkpoint.

The checkpoint names its text model (``text_model_id``); ``hf_overrides={"text_model_id": "/path"}``
names another folder, for users who may not download the gated one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from sensorium.decoder_config import DecoderConfig
from sensorium.errors import ConfigError, MediaError, RequestError
from sensorium.models.families import decoder_rules, read_decoder_config
from sensorium.plugins import (
    EncoderSpec,
    MediaAdapter,
    ModelContext,
    ModelFamily,
    Placeholder,
    WeightMap,
)
from sensorium.types import Features, Loaded, MediaPlan, MediaShape
from sensorium_media_audio.chunks import clip_tokens, padded_length
from sensorium_media_audio.kind import LENGTH, SAMPLING_RATE
from sensorium_media_audio.mel import HOP, RATE, WINDOW, log_mel
from sensorium_media_audio.towers.config import read_ultravox_config
from sensorium_media_audio.towers.ultravox import MEL, build_tower, tower_weights

ARCHITECTURE = "UltravoxModel"
TOWER = "tower"
PLACEHOLDER = "<|audio|>"
TEXT_MODEL = "text_model_id"
#: Tokens that may stand under an item's embedding, the first of them that the vocabulary has.
_STAND_INS = (PLACEHOLDER, "<|reserved_special_token_0|>", "<unk>")


class UltravoxFamily(ModelFamily):
    """Ultravox v0.5 with a decoder of Llama's style, its own or another checkpoint's."""

    architectures = (ARCHITECTURE,)
    encoders = (EncoderSpec(TOWER, build_tower, tower_weights),)

    def other_configs(self, config: Mapping[str, Any]) -> Mapping[str, str]:
        """The text model's, unless the checkpoint describes it itself."""
        name = self.decoder_source(config)
        return {} if name is None else {TEXT_MODEL: name}

    def complete_config(
        self, config: Mapping[str, Any], others: Mapping[str, Mapping[str, Any]]
    ) -> Mapping[str, Any]:
        """With the text model's config as ``text_config``."""
        return {**config, "text_config": others[TEXT_MODEL]}

    def decoder_config(self, config: Mapping[str, Any]) -> DecoderConfig:
        """The text model's. The entries beside it are the projector's, and no part of it."""
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise ConfigError(
                f"config.json: text_config is {text!r} and {TEXT_MODEL} is "
                f"{config.get(TEXT_MODEL)!r}; one of them must say what the text model is."
            )
        dtypes = {key: config[key] for key in ("dtype", "torch_dtype") if key in config}
        return read_decoder_config({**dtypes, "text_config": text})

    def decoder_weights(self, config: Mapping[str, Any]) -> WeightMap:
        """A text model's own spelling, and that of one inside an Ultravox."""
        return WeightMap(
            decoder_rules(
                bodies=("language_model.model.", "model."),
                heads=("language_model.lm_head.", "lm_head."),
            )
        )

    def decoder_source(self, config: Mapping[str, Any]) -> str | None:
        """``text_model_id``; None where the checkpoint holds the text model itself."""
        name = config.get(TEXT_MODEL)
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"config.json: {TEXT_MODEL} is {name!r}; it must be a string.")
        return name


class UltravoxAudio(MediaAdapter):
    """Audio for Ultravox: about 6.25 tokens a second, 188 for each 30 s."""

    kind = "audio"
    architectures = (ARCHITECTURE,)
    encoders = (TOWER,)

    def __init__(self, context: ModelContext) -> None:
        """Reads the tower's shape and what the checkpoint says of its spectrograms.

        Raises:
            ConfigError: a value that isn't built, by name.
        """
        super().__init__(context)
        self._config = read_ultravox_config(context.config)
        _check_processor(context.processor, self._config.num_mel_bins)
        ids = (context.tokenizer.token_to_id(token) for token in _STAND_INS)
        self._token_id = next((token_id for token_id in ids if token_id is not None), 0)
        own = context.tokenizer.token_to_id(PLACEHOLDER)
        self._placeholder = Placeholder(PLACEHOLDER, () if own is None else (own,), PLACEHOLDER)

    def placeholder(self, index: int) -> Placeholder:
        """``<|audio|>``, whatever the index; most vocabularies don't have it."""
        return self._placeholder

    def plan(self, shape: MediaShape, options: Mapping[str, Any]) -> MediaPlan:
        """As many tokens as the clip's length makes; see ``chunks``.

        Raises:
            MediaError: another sampling rate than the tower's.
        """
        length, rate = shape.facts[LENGTH], shape.facts[SAMPLING_RATE]
        assert isinstance(length, int), "the kind counts samples"
        if rate != RATE:
            raise MediaError(
                f"clips are loaded at {rate} samples a second; this model takes {RATE}: leave out "
                f"{SAMPLING_RATE} in media_io_kwargs."
            )
        return self._plan(clip_tokens(length, self._config.stack))

    def plan_embeds(
        self, num_rows: int, fields: Mapping[str, Tensor], options: Mapping[str, Any]
    ) -> MediaPlan:
        """Any number of rows: a clip may have any length.

        Raises:
            RequestError: no rows.
        """
        if num_rows < 1:
            raise RequestError("its embeddings have no rows; a clip has one at least.")
        return self._plan(num_rows)

    def process(
        self, loaded: Loaded, plan: MediaPlan, options: Mapping[str, Any]
    ) -> Mapping[str, Features]:
        """ "mel": (frames, bins) float32, of the whole clip."""
        samples = loaded.value
        missing = padded_length(len(samples)) - len(samples)
        if missing:
            samples = np.pad(samples, (0, missing))
        return {TOWER: {MEL: log_mel(samples, self._config.num_mel_bins)}}

    def worst_case(self, options: Mapping[str, Any], io_options: Mapping[str, Any]) -> MediaShape:
        """The longest clip that the kind lets through."""
        length = int(io_options["max_duration_s"] * RATE)
        return MediaShape((), {LENGTH: max(1, length), SAMPLING_RATE: RATE})

    def _plan(self, num_tokens: int) -> MediaPlan:
        return MediaPlan(num_tokens=num_tokens, token_ids=(self._token_id,) * num_tokens)


def _check_processor(processor: Mapping[str, Any], num_mel_bins: int) -> None:
    """What ``preprocessor_config.json`` says of spectrograms, which is Whisper's or not built."""
    nested = processor.get("feature_extractor")
    values = {**nested, **processor} if isinstance(nested, Mapping) else processor
    built = {
        "feature_size": num_mel_bins,
        "sampling_rate": RATE,
        "hop_length": HOP,
        "n_fft": WINDOW,
        "dither": 0.0,
    }
    for key, value in built.items():
        if values.get(key) is not None and values[key] != value:
            raise ConfigError(
                f"preprocessor_config.json: {key} is {values[key]!r}; only {value!r} is built."
            )
