"""Builds families' parts from a checkpoint's folder, without an engine, for tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sensorium.checkpoint import Checkpoint, open_checkpoint
from sensorium.config import EngineConfig
from sensorium.models.load import load_encoder
from sensorium.plugins import EncoderContext, MediaAdapter, ModelContext, ModelFamily
from sensorium.types import Loaded, MediaShape


class NoTokenizer:
    """Stands for a tokenizer where an adapter must not need one."""

    vocab_size = 0

    def encode(self, text: str, *, add_special_tokens: bool = False) -> list[int]:
        """Never called."""
        raise AssertionError(text)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Never called."""
        raise AssertionError(token_ids)

    def token_to_id(self, token: str) -> int | None:
        """Never called."""
        raise AssertionError(token)


def open_folder(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``."""
    return open_checkpoint(EngineConfig(model=str(folder)))


def model_context(
    family: ModelFamily, config: Mapping[str, Any], processor: Mapping[str, Any]
) -> ModelContext:
    """What a family's adapters are told."""
    return ModelContext(
        architecture=config["architectures"][0],
        config=config,
        processor=processor,
        decoder=family.decoder_config(config),
        tokenizer=NoTokenizer(),
    )


def make_adapter(
    adapter: type[MediaAdapter], family: ModelFamily, checkpoint: Checkpoint
) -> MediaAdapter:
    """The adapter for a checkpoint."""
    return adapter(model_context(family, checkpoint.config, checkpoint.processor))


def load_tower(
    family: ModelFamily,
    checkpoint: Checkpoint,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> nn.Module:
    """The family's only encoder, filled from the checkpoint."""
    (spec,) = family.encoders
    context = EncoderContext(
        architecture=checkpoint.architecture,
        config=checkpoint.config,
        processor=checkpoint.processor,
        decoder=family.decoder_config(checkpoint.config),
        dtype=dtype,
        device=torch.device(device),
    )
    return load_encoder(spec, context, checkpoint)


def random_image(height: int, width: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """(height, width, 3): noise over a gradient, so that neighbours are alike and different."""
    generator = np.random.default_rng(seed)
    rows = np.linspace(0, 160, height)[:, None, None]
    columns = np.linspace(60, 0, width)[None, :, None]
    noise = generator.integers(0, 96, (height, width, 3))
    return np.clip(rows + columns + noise, 0, 255).astype(np.uint8)


def loaded(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Loaded:
    """As the kind hands an item to an adapter."""
    return Loaded(pixels, MediaShape(pixels.shape[:2]))


@contextlib.contextmanager
def one_axis_resizes() -> Iterator[None]:
    """Makes Pillow resize along the rows first, whatever its version would choose.

    Pillow up to 12 always does; Pillow 13 chooses the order of the two passes by the sizes,
    and so differs from torchvision in up to a third of the values.
    """
    from PIL import Image

    original = Image.Image.resize

    def resize(
        self: Image.Image, size: Sequence[int], resample: int | None = None, **others: Any
    ) -> Image.Image:
        assert not any(value is not None for value in others.values()), others
        across = original(self, (size[0], self.height), resample)
        return original(across, (size[0], size[1]), resample)

    Image.Image.resize = resize  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        Image.Image.resize = original  # type: ignore[method-assign]


def raw_patches(pixels: torch.Tensor, config: Any) -> tuple[torch.Tensor, tuple[int, int, int]]:
    """A Qwen tower's patches of (frames, height, width, 3), not normalised, and their grid."""
    from sensorium_media_image.patches import normalised_patches

    frames, height, width, _ = pixels.shape
    grid = (-(-frames // config.temporal_patch_size), height // 14, width // 14)
    zeros = torch.zeros(3)
    return normalised_patches([pixels], config.patches, zeros, zeros + 1), grid
