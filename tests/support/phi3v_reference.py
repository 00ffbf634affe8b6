"""Phi-3.5-vision composed out of transformers' CLIP and Phi-3, with the glue between written anew.

The glue follows the published description alone: how a picture is cut into tiles, how features
are merged and parted by separators, how a prompt's pieces are tokenized. Pillow resizes, numpy
pads and normalises. It shares no code with the package, reads tiny checkpoints by their published
names, and is what the package is compared with.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedTokenizerFast,
)

MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
EMBED = "model.vision_embed_tokens."
#: Entries of ``config.json`` that describe the decoder.
READ_BY_PHI3 = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "vocab_size",
    "hidden_act",
    "max_position_embeddings",
    "original_max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
TAG = re.compile(r"<\|image_(\d+)\|>")


def tiled_size(width: int, height: int, side: int, num_crops: int) -> tuple[int, int]:
    """(width, height) of a landscape picture once resized, before it is padded."""
    ratio = width / height
    scale = 1
    while scale * np.ceil(scale / ratio) <= num_crops:
        scale += 1
    scale -= 1
    return int(scale * side), int(scale * side / ratio)


def tiles(width: int, height: int, side: int, num_crops: int) -> tuple[int, int]:
    """(rows, columns) of tiles of any picture."""
    wide, high = tiled_size(max(width, height), min(width, height), side, num_crops)
    across, down = wide // side, math.ceil(high / side)
    return (down, across) if width >= height else (across, down)


def num_tokens(rows: int, columns: int, merged: int = 12) -> int:
    """The published sum; ``merged`` is 12 for tiles of 336 pixels."""
    return (rows * columns + 1) * merged**2 + 1 + (rows + 1) * merged


def hd_transform(picture: Image.Image, side: int, num_crops: int) -> Image.Image:
    """Resized and padded with white to whole tiles."""
    portrait = picture.width < picture.height
    if portrait:
        picture = picture.transpose(Image.Transpose.TRANSPOSE)
    width, height = tiled_size(picture.width, picture.height, side, num_crops)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    full = math.ceil(height / side) * side
    padded = Image.new("RGB", (width, full), (255, 255, 255))
    padded.paste(picture, (0, int((full - height) / 2)))
    return padded.transpose(Image.Transpose.TRANSPOSE) if portrait else padded


def pixel_values(padded: Image.Image, side: int) -> torch.Tensor:
    """(1 + tiles, 3, side, side): the global view first, then tiles by rows."""
    values = (np.asarray(padded, dtype=np.float32) / 255 - MEAN) / STD
    chw = torch.from_numpy(values).permute(2, 0, 1).contiguous()
    whole = nn.functional.interpolate(chw[None], (side, side), mode="bicubic")
    parts = [
        chw[:, top : top + side, left : left + side]
        for top in range(0, chw.shape[1], side)
        for left in range(0, chw.shape[2], side)
    ]
    return torch.cat((whole, torch.stack(parts)))


class Phi3VReference:
    """The model of a tiny checkpoint's folder."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        config = json.loads((folder / "config.json").read_text())
        processor = json.loads((folder / "preprocessor_config.json").read_text())
        self.dtype = dtype
        self.num_crops: int = processor["num_crops"]
        tower = config["img_processor"]
        self.side: int = tower["image_size"]
        self.tensors = load_file(folder / "model.safetensors")
        self.clip = self._clip(tower)
        self.decoder = self._decoder(config)
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.image_id: int = self.tokenizer.convert_tokens_to_ids("<|image|>")

    def _clip(self, tower: dict[str, Any]) -> CLIPVisionModel:
        model = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=tower["image_dim_out"],
                intermediate_size=tower["intermediate_size"],
                num_hidden_layers=tower["num_hidden_layers"],
                num_attention_heads=tower["num_attention_heads"],
                image_size=self.side,
                patch_size=14,
                hidden_act="quick_gelu",
            )
        )
        prefix = EMBED + "img_processor.vision_model."
        self._fill(
            model, {k.removeprefix(prefix): v for k, v in self.tensors.items() if prefix in k}
        )
        return model.to(self.dtype).eval()

    def _decoder(self, config: dict[str, Any]) -> Phi3ForCausalLM:
        kept = {k: v for k, v in config.items() if k in READ_BY_PHI3}
        kept["rope_scaling"] = dict(config["rope_scaling"], type="longrope")
        model = Phi3ForCausalLM(Phi3Config(**kept))
        self._fill(model, {k: v for k, v in self.tensors.items() if EMBED not in k})
        return model.to(self.dtype).eval()

    @staticmethod
    def _fill(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
        """Every parameter from a tensor of its name, whatever prefix the class puts before it."""
        for name, parameter in model.named_parameters():
            parameter.data.copy_(tensors[name.removeprefix("vision_model.")])

    # --- a picture --------------------------------------------------------------------

    @torch.no_grad()
    def embeds(self, picture: Image.Image, num_crops: int | None = None) -> torch.Tensor:
        """(tokens, hidden) of one picture: tiles, separator, global view."""
        return self.embeds_of(hd_transform(picture, self.side, num_crops or self.num_crops))

    @torch.no_grad()
    def embeds_of(self, padded: Image.Image) -> torch.Tensor:
        """The same of a picture that fills whole tiles."""
        values = pixel_values(padded, self.side).to(self.dtype)
        states = self.clip(pixel_values=values, output_hidden_states=True).hidden_states[-2][:, 1:]
        count = round(states.shape[1] ** 0.5)
        merged = torch.stack(
            [
                torch.cat(
                    [
                        states[:, (2 * y + dy) * count + 2 * x + dx]
                        for dy in (0, 1)
                        for dx in (0, 1)
                    ],
                    dim=-1,
                )
                for y in range(count // 2)
                for x in range(count // 2)
            ],
            dim=1,
        )
        half = count // 2
        row_end, between = (
            self.tensors[EMBED + name].flatten()[None].to(self.dtype)
            for name in ("sub_GN", "glb_GN")
        )
        rows, columns = padded.height // self.side, padded.width // self.side
        found = []
        for row in range(rows):
            for y in range(half):
                for column in range(columns):
                    tile = merged[1 + row * columns + column]
                    found.append(tile[y * half : (y + 1) * half])
                found.append(row_end)
        found.append(between)
        for y in range(half):
            found += [merged[0][y * half : (y + 1) * half], row_end]
        x = torch.cat(found)
        for name in ("0", "2"):
            weight, bias = (
                self.tensors[f"{EMBED}img_projection.{name}.{part}"].to(self.dtype)
                for part in ("weight", "bias")
            )
            x = nn.functional.linear(x if name == "0" else nn.functional.gelu(x), weight, bias)
        return x

    # --- a prompt ---------------------------------------------------------------------

    def token_ids(self, text: str, lengths: list[int]) -> list[int]:
        """The pieces between tags tokenized separately, each with specials; -i for picture i."""
        pieces = TAG.split(text)
        ids: list[int] = []
        for i, piece in enumerate(pieces):
            if i % 2:
                ids += [-int(piece)] * lengths[int(piece) - 1]
            else:
                ids += self.tokenizer(piece).input_ids
        return ids

    @torch.no_grad()
    def hidden_and_logits(
        self, ids: list[int], features: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, hidden) behind the last norm and (tokens, vocabulary); -i is picture i."""
        tokens = torch.tensor(ids)
        x = self.decoder.model.embed_tokens(tokens.clamp(min=0))
        for i, rows in enumerate(features, start=1):
            x[tokens == -i] = rows
        out = self.decoder(inputs_embeds=x[None], output_hidden_states=True)
        return out.hidden_states[-1][0], out.logits[0]
