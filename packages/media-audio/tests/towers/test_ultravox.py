"""The tower and the projector equal transformers' Whisper with a projector written out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attention_backends import TOWER, Attention
from audio_files import melody
from tiny_ultravox import make_ultravox
from ultravox_reference import UltravoxReference

from sensorium.checkpoint import open_checkpoint
from sensorium.config import EngineConfig
from sensorium.engine.model import complete
from sensorium.models.load import load_encoder
from sensorium.plugins import EncoderContext
from sensorium_media_audio.chunks import clip_tokens
from sensorium_media_audio.families.ultravox import UltravoxFamily
from sensorium_media_audio.mel import log_mel

#: Seconds: less than a chunk, one, a little more, several, and remainders of every kind.
LENGTHS = (0.02, 0.13, 1.0, 7.77, 29.99, 30.0, 30.01, 30.17, 45.678, 61.3, 90.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ultravox(tmp_path_factory.mktemp("ultravox"))


@pytest.fixture(scope="module")
def tower(folder: Path) -> torch.nn.Module:
    return load(folder, torch.float32)


def load(folder: Path, dtype: torch.dtype, device: str = "cpu") -> torch.nn.Module:
    family, engine = UltravoxFamily(), EngineConfig(model=str(folder))
    checkpoint = complete(open_checkpoint(engine), family, engine)
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


def mel_of(seconds: float, seed: int = 0) -> torch.Tensor:
    return log_mel(melody(seconds, seed=seed), 128)


def test_it_is_transformers(folder: Path, tower: torch.nn.Module) -> None:
    reference = UltravoxReference(folder)
    for seconds in LENGTHS:
        mel = mel_of(seconds)
        (out,) = tower([{"mel": mel}])
        expected = reference.embed(mel)
        assert len(out.embeds) == clip_tokens(int(16_000 * seconds), 8)
        torch.testing.assert_close(out.embeds, expected, atol=2e-5, rtol=1e-4)


def test_batch_mates_change_nothing(tower: torch.nn.Module) -> None:
    """Also where there are more chunks than pass at once."""
    mels = [mel_of(seconds, seed) for seed, seconds in enumerate(LENGTHS)]
    together = tower([{"mel": mel} for mel in mels])
    for mel, out in zip(mels, together, strict=True):
        (alone,) = tower([{"mel": mel}])
        torch.testing.assert_close(out.embeds, alone.embeds, atol=1e-5, rtol=1e-5)


def test_no_items(tower: torch.nn.Module) -> None:
    assert tower([]) == []


@pytest.mark.parametrize(
    ("device", "head_size"),
    [("cpu", 16), pytest.param("cuda", 64, marks=pytest.mark.gpu)],
)
def test_half_precision_under_each_backend(
    tmp_path: Path, attention: Attention, device: str, head_size: int
) -> None:
    """In bfloat16 rows are those of float32 on the CPU, but for what eight bits of mantissa lose.

    The clips take every way through the tower: part of a chunk, a whole one, rows of padding behind
    a last chunk, and more chunks than pass at once.
    """
    folder = make_ultravox(tmp_path, head_size=head_size)
    items = [{"mel": mel_of(seconds, seed)} for seed, seconds in enumerate(LENGTHS)]
    expected = load(folder, torch.float32)(items)
    outputs = load(folder, torch.bfloat16, device)(items)
    assert len(outputs) == len(items)
    for wide, half in zip(expected, outputs, strict=True):
        assert (half.embeds.dtype, half.embeds.device.type) == (torch.bfloat16, device)
        assert half.embeds.shape == wide.embeds.shape
        error = (half.embeds.float().cpu() - wide.embeds).norm() / wide.embeds.norm()
        assert error < 0.05
    attention.assert_ran(*TOWER, device=device)
