"""Whisper's encoder (Radford et al. 2022) with Ultravox's projector behind it.

    spectrogram (frames, bins) ─ chunks of 3,000 ─ two convolutions, the second one halves
        ─ + positions ─ layers, attention inside each chunk ─ norm
        ─ 8 rows become one ─ RMS norm ─ matrix ─ SwiGLU ─ RMS norm ─ matrix ─ embedding rows

Nothing is padded to 30 seconds. The published code pads the last chunk of a clip of several, masks
what it added as keys, and stacks it all the same: up to ``stack`` - 1 rows of padding reach the
last embedding row. Those rows are computed here too, and no others ("more" below).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sensorium.models.layers import Embedding, FusedLinear, Linear, RMSNorm
from sensorium.ops import Segments, varlen_attention
from sensorium.plugins.context import EncoderContext
from sensorium.plugins.encoder import EncoderOutput, WeightMap, WeightRule
from sensorium.types import Features
from sensorium_media_audio.chunks import chunk_frames, chunk_tokens
from sensorium_media_audio.towers.config import UltravoxConfig, read_ultravox_config

MEL = "mel"
#: PyTorch's default, which Whisper's published class takes.
LAYER_NORM_EPS = 1e-5
RMS_NORM_EPS = 1e-6
#: Chunks in one pass, as many as the published batching takes; more pass one group after another.
_MOST_CHUNKS = 16


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a pass's rows lie: first every chunk's own, then every chunk's rows of padding.

    Attributes:
        segments: the chunks among the own rows.
        more: (chunk, first row, last row + 1) of the rows of padding, of chunks that have some.
    """

    segments: Segments
    more: tuple[tuple[int, int, int], ...]

    @property
    def num_own(self) -> int:
        """Rows that aren't padding."""
        return self.segments.borders[-1]


class UltravoxTower(nn.Module):
    """Spectrograms to embedding rows of the decoder's width. Parameters are created empty."""

    def __init__(
        self, config: UltravoxConfig, out_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.config = config
        size = config.hidden_size
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        self.conv1 = nn.Conv1d(config.num_mel_bins, size, 3, padding=1, **place)
        self.conv2 = nn.Conv1d(size, size, 3, stride=2, padding=1, **place)
        self.embed_positions = Embedding(config.max_positions, size, dtype=dtype, device=device)
        self.layers = nn.ModuleList(
            WhisperLayer(config, dtype, device) for _ in range(config.num_layers)
        )
        self.layer_norm = nn.LayerNorm(size, LAYER_NORM_EPS, **place)
        self.projector = Projector(config, out_size, dtype, device)

    @torch.no_grad()
    def forward(self, items: Sequence[Features]) -> list[EncoderOutput]:
        """Encodes items with "mel" (frames, bins) float32.

        Returns:
            For each (tokens, out_size) in the tower's dtype.
        """
        chunks: list[Tensor] = []
        counts: list[tuple[int, bool]] = []
        num_chunks = []
        weight = self.conv1.weight
        for item in items:
            mel = item[MEL].to(weight.device, weight.dtype)
            lengths = chunk_frames(len(mel))
            num_chunks.append(len(lengths))
            counts += [(length, index > 0) for index, length in enumerate(lengths)]
            chunks += torch.split(mel, lengths)
        rows: list[Tensor] = []
        for start in range(0, len(chunks), _MOST_CHUNKS):
            stop = start + _MOST_CHUNKS
            rows += self.encode(chunks[start:stop], counts[start:stop])
        borders = list(accumulate(num_chunks, initial=0))
        return [EncoderOutput(torch.cat(rows[start:stop])) for start, stop in pairwise(borders)]

    def encode(self, chunks: Sequence[Tensor], counts: Sequence[tuple[int, bool]]) -> list[Tensor]:
        """Chunks (frames, bins) → (tokens, out_size) each.

        Args:
            counts: frames of a chunk, and whether the published code pads it to a whole one:
                every chunk of a clip but the first.
        """
        embedded = [self.embed(*pair) for pair in zip(chunks, counts, strict=True)]
        own = [-(-frames // 2) for frames, _ in counts]
        x = torch.cat(
            [rows[:n] for rows, n in zip(embedded, own, strict=True)]
            + [rows[n:] for rows, n in zip(embedded, own, strict=True)]
        )
        layout = _layout(own, [len(rows) for rows in embedded], x.device)
        for layer in self.layers:
            x = layer(x, layout)
        x = self.layer_norm(x)
        parts = []
        more = {chunk: x[start:stop] for chunk, start, stop in layout.more}
        for i, rows in enumerate(x[: layout.num_own].split(own)):
            parts.append(self.stacked(torch.cat((rows, more[i])) if i in more else rows))
        tokens = [chunk_tokens(frames, self.config.stack) for frames, _ in counts]
        assert [len(part) for part in parts] == tokens
        return list(self.projector(torch.cat(parts)).split(tokens))

    def embed(self, mel: Tensor, count: tuple[int, bool]) -> Tensor:
        """A chunk (frames, bins) → (rows, hidden): convolutions and positions.

        The rows are the chunk's own, and those of padding that reach its last embedding row.
        """
        frames, is_padded = count
        own, stack = -(-frames // 2), self.config.stack
        num_rows = own
        if is_padded:
            num_rows = min(-(-own // stack) * stack, self.config.max_positions)
            # One frame more, since the convolutions look one to each side.
            missing = min(2 * num_rows + 1, 2 * self.config.max_positions) - frames
            mel = functional.pad(mel, (0, 0, 0, max(0, missing)))
        x = functional.gelu(self.conv1(mel.T[None]))
        x = functional.gelu(self.conv2(x))[0].T[:num_rows]
        return x + self.embed_positions.weight[:num_rows]

    def stacked(self, rows: Tensor) -> Tensor:
        """(rows, hidden) → (rows / stack, rounded up; stack · hidden), zeros filling the last."""
        stack = self.config.stack
        missing = -len(rows) % stack
        return functional.pad(rows, (0, 0, 0, missing)).reshape(-1, stack * rows.shape[1])


class WhisperLayer(nn.Module):
    """Attention and MLP, each behind a norm and added to its input."""

    def __init__(self, config: UltravoxConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        size, inner = config.hidden_size, config.intermediate_size
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        self.num_heads = config.num_heads
        self.self_attn_layer_norm = nn.LayerNorm(size, LAYER_NORM_EPS, **place)
        # Keys have no bias: it would shift all scores of a query alike.
        self.qv_proj = FusedLinear(
            size, {"q_proj": size, "v_proj": size}, bias=True, dtype=dtype, device=device
        )
        self.k_proj = Linear(size, size, bias=False, dtype=dtype, device=device)
        self.out_proj = Linear(size, size, bias=True, dtype=dtype, device=device)
        self.final_layer_norm = nn.LayerNorm(size, LAYER_NORM_EPS, **place)
        self.fc1 = Linear(size, inner, bias=True, dtype=dtype, device=device)
        self.fc2 = Linear(inner, size, bias=True, dtype=dtype, device=device)

    def forward(self, x: Tensor, layout: _Layout) -> Tensor:
        """(N, hidden) → the same shape."""
        normed = self.self_attn_layer_norm(x)
        q, v = self.qv_proj(normed)
        k = self.k_proj(normed)
        q, k, v = (part.reshape(len(x), self.num_heads, -1) for part in (q, k, v))
        x = x + self.out_proj(_attend(q, k, v, layout).flatten(1))
        out: Tensor = x + self.fc2(functional.gelu(self.fc1(self.final_layer_norm(x))))
        return out


class Projector(nn.Module):
    """Stacked rows → the decoder's width."""

    def __init__(
        self, config: UltravoxConfig, out_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        stacked, inner = config.stack * config.hidden_size, config.projector_size // 2
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        self.ln_pre = RMSNorm(stacked, RMS_NORM_EPS, **place)
        self.linear_1 = Linear(stacked, config.projector_size, bias=False, **place)
        middle = config.norm_in_the_middle
        self.ln_mid = RMSNorm(inner, RMS_NORM_EPS, **place) if middle else None
        self.linear_2 = Linear(inner, out_size, bias=False, **place)
        self.ln_post = None if middle else RMSNorm(out_size, RMS_NORM_EPS, **place)

    def forward(self, x: Tensor) -> Tensor:
        """(N, stack · hidden) → (N, out_size)."""
        values, gate = self.linear_1(self.ln_pre(x)).chunk(2, dim=-1)
        x = values * functional.silu(gate)
        x = x if self.ln_mid is None else self.ln_mid(x)
        x = self.linear_2(x)
        return x if self.ln_post is None else self.ln_post(x)


def _layout(own: Sequence[int], rows: Sequence[int], device: torch.device) -> _Layout:
    segments = Segments(list(accumulate(own, initial=0)), device)
    more = []
    start = segments.borders[-1]
    for chunk, (n, total) in enumerate(zip(own, rows, strict=True)):
        if total > n:
            more.append((chunk, start, start + total - n))
            start += total - n
    return _Layout(segments, tuple(more))


def _attend(q: Tensor, k: Tensor, v: Tensor, layout: _Layout) -> Tensor:
    """Attention inside each chunk; rows of padding see their chunk's own rows, and nobody them."""
    n = layout.num_own
    out = varlen_attention(q[:n], k[:n], v[:n], layout.segments)
    if not layout.more:
        return out
    parts = [out]
    for chunk, start, stop in layout.more:
        keys = slice(*layout.segments.borders[chunk : chunk + 2])
        queries, seen_keys, values = (
            part.transpose(0, 1) for part in (q[start:stop], k[keys], v[keys])
        )
        seen = functional.scaled_dot_product_attention(queries, seen_keys, values)
        parts.append(seen.transpose(0, 1))
    return torch.cat(parts)


def build_tower(context: EncoderContext) -> UltravoxTower:
    """The tower that an Ultravox's ``config.json`` describes, its weights yet to come."""
    config = read_ultravox_config(context.config)
    return UltravoxTower(config, context.decoder.hidden_size, context.dtype, context.device)


def tower_weights(config: Mapping[str, Any]) -> WeightMap:
    """Published names → the tower's."""
    return WeightMap(
        (
            WeightRule(r"audio_tower\.layers\.(\d+)\.(?:self_attn\.)?(\w+\.\w+)", r"layers.\1.\2"),
            WeightRule(r"audio_tower\.((?:conv[12]|embed_positions|layer_norm)\.\w+)", r"\1"),
            WeightRule(r"multi_modal_projector\.(\w+\.weight)", r"projector.\1"),
        )
    )
