"""An Ultravox's ``config.json``, as far as its tower and its projector go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sensorium.errors import ConfigError
from sensorium.models.values import integer
from sensorium_media_audio.chunks import CHUNK_FRAMES


@dataclass(frozen=True, slots=True)
class UltravoxConfig:
    """Shapes.

    Attributes:
        num_mel_bins: rows of a spectrogram.
        max_positions: tower rows of a chunk at most; a chunk has two spectrogram frames for each.
        stack: tower rows that become one embedding row.
        projector_size: width between the projector's two matrices, gate included.
        norm_in_the_middle: whether the projector's second norm stands behind the gate (v0.5) or at
            the end.
    """

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_mel_bins: int
    max_positions: int
    stack: int
    projector_size: int
    norm_in_the_middle: bool


def read_ultravox_config(config: Mapping[str, Any]) -> UltravoxConfig:
    """Reads the shapes.

    Raises:
        ConfigError: a value that is missing, of the wrong type or not built, by name.
    """
    audio = config.get("audio_config")
    if config.get("audio_model_id") is not None:
        raise ConfigError(
            f"config.json: audio_model_id is {config['audio_model_id']!r}; only null is built, "
            "a checkpoint that holds its audio tower itself."
        )
    if not isinstance(audio, Mapping):
        raise ConfigError(f"config.json: audio_config is {audio!r}; it must be an object.")
    _require("config.json", config, "projector_act", "swiglu")
    _require("config.json", config, "audio_latency_block_size", None)
    _require("config.json: audio_config", audio, "model_type", "whisper")
    _require("config.json: audio_config", audio, "activation_function", "gelu")
    _require("config.json: audio_config", audio, "scale_embedding", False)
    heads, size = integer(audio, "encoder_attention_heads"), integer(audio, "d_model")
    if size % heads:
        raise ConfigError(
            f"config.json: audio_config: d_model {size} is no multiple of "
            f"encoder_attention_heads {heads}."
        )
    positions = integer(audio, "max_source_positions", default=1500)
    if 2 * positions != CHUNK_FRAMES:
        raise ConfigError(
            f"config.json: audio_config: max_source_positions is {positions}; only "
            f"{CHUNK_FRAMES // 2} is built, half a chunk's frames."
        )
    middle = config.get("projector_ln_mid", False)
    if not isinstance(middle, bool):
        raise ConfigError(f"config.json: projector_ln_mid is {middle!r}; it must be true or false.")
    projector_size = integer(config, "hidden_size", default=4096)
    if projector_size % 2:
        raise ConfigError(f"config.json: hidden_size is {projector_size}; it must be even.")
    return UltravoxConfig(
        hidden_size=size,
        intermediate_size=integer(audio, "encoder_ffn_dim"),
        num_layers=integer(audio, "encoder_layers"),
        num_heads=heads,
        num_mel_bins=integer(audio, "num_mel_bins", default=80),
        max_positions=positions,
        stack=integer(config, "stack_factor", default=8),
        projector_size=projector_size,
        norm_in_the_middle=middle,
    )


def _require(where: str, values: Mapping[str, Any], key: str, built: object) -> None:
    value = values.get(key, built)
    if value != built:
        raise ConfigError(f"{where}: {key} is {value!r}; only {built!r} is built.")
