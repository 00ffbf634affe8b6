"""Ultravox composed of transformers' Whisper and Llama classes, with glue of its own.

Each clip is prepared alone, as the published processor prepares one: one spectrogram, chunks of
3,000 frames, every chunk but a first short one padded with zeros, padding masked as keys.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

CHUNK = 3000


class UltravoxReference:
    """Reads a checkpoint whose text model ``config.json`` names by its path."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        whisper = WhisperConfig(**self.config["audio_config"], attn_implementation="eager")
        self.encoder = WhisperEncoder(whisper).eval()
        tower = {k.removeprefix("audio_tower."): v for k, v in weights.items() if "tower" in k}
        self.encoder.load_state_dict(tower)
        self.projector = {k.split(".", 1)[1]: v for k, v in weights.items() if "projector" in k}
        self.text = AutoModelForCausalLM.from_pretrained(
            self.config["text_model_id"], dtype=torch.float32
        ).eval()

    @torch.no_grad()
    def embed(self, mel: torch.Tensor) -> torch.Tensor:
        """(frames, bins) of a whole clip → (tokens, hidden)."""
        starts = range(0, len(mel), CHUNK)
        lengths = [min(CHUNK, len(mel) - start) for start in starts]
        width = max(lengths)
        batch = torch.zeros(len(lengths), mel.shape[1], width)
        for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
            batch[i, :, :length] = mel[start : start + length].T
        encoder = self.encoder
        x = nn.functional.gelu(encoder.conv1(batch))
        x = nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
        x = x + encoder.embed_positions.weight[: x.shape[1]]
        kept = torch.tensor([(length - 1) // 2 + 1 for length in lengths])
        hidden = torch.arange(x.shape[1])[None] >= kept[:, None]
        mask = torch.zeros(len(lengths), 1, 1, x.shape[1])
        mask.masked_fill_(hidden[:, None, None], torch.finfo(torch.float32).min)
        for layer in encoder.layers:
            out = layer(x, attention_mask=mask)
            x = out[0] if isinstance(out, tuple) else out
        x = encoder.layer_norm(x)
        x = self.project(x)
        tokens = [-(-length // 16) for length in lengths]
        return torch.cat([rows[:n] for rows, n in zip(x, tokens, strict=True)])

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """(chunks, rows, width) → (chunks, rows / 8, hidden)."""
        stack, weights = self.config["stack_factor"], self.projector
        x = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % stack))
        x = x.reshape(len(x), -1, stack * x.shape[2])
        x = nn.functional.linear(rms(x, weights["ln_pre.weight"]), weights["linear_1.weight"])
        values, gate = x.chunk(2, dim=-1)
        x = rms(values * nn.functional.silu(gate), weights["ln_mid.weight"])
        return nn.functional.linear(x, weights["linear_2.weight"])

    @torch.no_grad()
    def logits(self, pieces: list[torch.Tensor], answer: list[int]) -> torch.Tensor:
        """(len(answer), vocabulary), each row before its token.

        Args:
            pieces: token ids (N,) and embedding rows (N, hidden), in order.
        """
        table = self.text.get_input_embeddings()
        rows = [piece if piece.is_floating_point() else table(piece) for piece in pieces]
        inputs = torch.cat([*rows, table(torch.tensor(answer))])[None]
        logits: torch.Tensor = self.text(inputs_embeds=inputs).logits[0]
        return logits[-len(answer) - 1 : -1]


def rms(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Root-mean-square norm with epsilon 1e-6."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight
