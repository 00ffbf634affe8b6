"""MiniCPM-V-2.6 composed out of transformers' SigLIP and Qwen2, with the glue between written anew.

The glue follows the published description alone: how a picture is sliced and resized, which
position buckets its patches get, how the resampler attends, what text stands around the rows. It
shares no code with the package and reads tiny checkpoints by their published names.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
    SiglipVisionModel,
)

PATCH = 14
TAG = "(<image>./</image>)"


# --- slicing ----------------------------------------------------------------------------


def multiple_of(value: float, unit: int) -> int:
    """The nearest multiple, ties to even, and at least one."""
    return max(round(value / unit) * unit, unit)


def best_size(width: int, height: int, scale: int, upscale: bool) -> tuple[int, int]:
    """(width, height) of about scale² pixels, in whole patches."""
    if width * height > scale * scale or upscale:
        ratio = width / height
        height = int(scale / math.sqrt(ratio))
        width = int(height * ratio)
    return multiple_of(width, PATCH), multiple_of(height, PATCH)


def sliced_grid(width: int, height: int, scale: int, most: int) -> tuple[int, int] | None:
    """(columns, rows) of slices; None: the picture is taken whole."""
    multiple = min(math.ceil(width * height / (scale * scale)), most)
    if multiple <= 1:
        return None
    pairs = []
    for count in (multiple - 1, multiple, multiple + 1):
        if count == 1 or count > most:
            continue
        pairs += [(m, count // m) for m in range(1, count + 1) if count % m == 0]
    wanted = math.log(width / height)
    best, least = (1, 1), math.inf
    for columns, rows in pairs:
        error = abs(wanted - math.log(columns / rows))
        if error < least:
            best, least = (columns, rows), error
    return best


def refine_size(width: int, height: int, grid: tuple[int, int], scale: int) -> tuple[int, int]:
    """(width, height) of the picture that is cut into slices."""
    columns, rows = grid
    cell_width = multiple_of(width, columns) / columns
    cell_height = multiple_of(height, rows) / rows
    wide, high = best_size(cell_width, cell_height, scale, True)  # type: ignore[arg-type]
    return wide * columns, high * rows


def slices(picture: Image.Image, scale: int, most: int) -> list[Image.Image]:
    """The source view, then the slices by rows."""
    grid = sliced_grid(picture.width, picture.height, scale, most)
    bicubic = Image.Resampling.BICUBIC
    size = best_size(picture.width, picture.height, scale, grid is None)
    found = [picture.resize(size, bicubic)]
    if grid is not None:
        whole = picture.resize(refine_size(picture.width, picture.height, grid, scale), bicubic)
        wide, high = whole.width // grid[0], whole.height // grid[1]
        for y in range(0, whole.height, high):
            for x in range(0, whole.width, wide):
                found.append(whole.crop((x, y, x + wide, y + high)))
    return found


def placeholder(index: int, grid: tuple[int, int] | None, queries: int, use_id: bool = True) -> str:
    """The text that stands for a picture."""
    rows = "<unk>" * queries
    text = f"<image_id>{index}</image_id>" if use_id else ""
    text += f"<image>{rows}</image>"
    if grid is not None:
        line = f"<slice>{rows}</slice>" * grid[0]
        text += "\n".join([line] * grid[1])
    return text


# --- the tower --------------------------------------------------------------------------


def position_ids(rows: int, columns: int, side: int = 70) -> torch.Tensor:
    """Buckets of a (rows, columns) grid of patches in the learnt side × side table."""
    borders = torch.arange(1 / side, 1.0, 1 / side)
    down, across = (
        torch.bucketize(torch.arange(0, 1 - 1e-6, 1 / n), borders, right=True)
        for n in (rows, columns)
    )
    return (down[:, None] * side + across).flatten()


def sincos(rows: int, columns: int, size: int) -> torch.Tensor:
    """(rows · columns, size): the column in the first half of the channels, then the row."""
    quarter = size // 4
    omega = 1.0 / 10000 ** (np.arange(quarter, dtype=np.float32) / quarter)

    def one(positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        angles = positions[:, None] * omega
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

    y, x = np.divmod(np.arange(rows * columns, dtype=np.float32), columns)
    return torch.from_numpy(np.concatenate([one(x), one(y)], axis=1)).float()


class MiniCPMVReference:
    """The model of a tiny checkpoint's folder."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.dtype = dtype
        self.scale: int = self.config["slice_config"]["scale_resolution"]
        self.most: int = self.config["slice_config"]["max_slice_nums"]
        self.queries: int = self.config["query_num"]
        self.tensors = load_file(folder / "model.safetensors")
        self.siglip = self._siglip()
        self.resampler = self._resampler()
        self.decoder = self._decoder()
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)

    def _siglip(self) -> SiglipVisionModel:
        given = self.config["vision_config"]
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        model = SiglipVisionModel(
            SiglipVisionConfig(
                **{name: given[name] for name in names},
                image_size=given["image_size"],
                patch_size=PATCH,
                vision_use_head=False,
            )
        )
        return self._filled(model, "vpm.", drop="vision_model.")

    def _resampler(self) -> nn.MultiheadAttention:
        size = self.config["hidden_size"]
        return self._filled(nn.MultiheadAttention(size, size // 128), "resampler.attn.")

    def _decoder(self) -> Qwen2ForCausalLM:
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        names += ("num_key_value_heads", "vocab_size", "rms_norm_eps", "rope_theta")
        names += ("max_position_embeddings", "tie_word_embeddings")
        config = Qwen2Config(**{name: self.config[name] for name in names})
        return self._filled(Qwen2ForCausalLM(config), "llm.")

    def _filled(self, model: Any, prefix: str, drop: str = "") -> Any:
        for name, parameter in model.named_parameters():
            parameter.data.copy_(self.tensors[prefix + name.removeprefix(drop)])
        return model.to(self.dtype).eval()

    def _of(self, name: str) -> torch.Tensor:
        return self.tensors[f"resampler.{name}"].to(self.dtype)

    @torch.no_grad()
    def embeds_of(self, picture: Image.Image) -> torch.Tensor:
        """(queries, hidden) of one view or slice, in whole patches."""
        values = (torch.from_numpy(np.array(picture)).float() / 255 - 0.5) / 0.5
        vision = getattr(self.siglip, "vision_model", self.siglip)
        x = vision.embeddings.patch_embedding(values.permute(2, 0, 1)[None].to(self.dtype))
        rows, columns = x.shape[2:]
        table = vision.embeddings.position_embedding.weight
        side = round(len(table) ** 0.5)
        x = x.flatten(2).transpose(1, 2) + table[position_ids(rows, columns, side)]
        x = vision.encoder(inputs_embeds=x).last_hidden_state
        x = vision.post_layernorm(x)[0]
        x = self._norm("ln_kv", nn.functional.linear(x, self._of("kv_proj.weight")))
        query = self._norm("ln_q", self._of("query"))
        keys = x + sincos(rows, columns, x.shape[1]).to(self.dtype)
        out = self.resampler(query[:, None], keys[:, None], x[:, None], need_weights=False)[0]
        return self._norm("ln_post", out[:, 0]) @ self._of("proj")

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._of(f"{name}.weight"), self._of(f"{name}.bias")
        return nn.functional.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)

    @torch.no_grad()
    def embeds(self, picture: Image.Image, most: int | None = None) -> torch.Tensor:
        """(queries · (1 + slices), hidden) of a picture."""
        views = slices(picture, self.scale, self.most if most is None else most)
        return torch.cat([self.embeds_of(view) for view in views])

    def token_ids(self, text: str, sizes: list[tuple[int, int]]) -> list[int]:
        """Of a prompt with a tag for each picture of ``sizes``, (width, height)."""
        first, *rest = text.split(TAG)
        whole = first
        for i, (size, after) in enumerate(zip(sizes, rest, strict=True)):
            grid = sliced_grid(*size, self.scale, self.most)
            whole += placeholder(i, grid, self.queries) + after
        ids: list[int] = self.tokenizer(whole, add_special_tokens=False).input_ids
        return ids

    @torch.no_grad()
    def logits(self, ids: list[int], features: list[torch.Tensor]) -> torch.Tensor:
        """(tokens, vocabulary): pictures' rows stand at the first <unk>, in order; one that an
        answer holds is text."""
        tokens = torch.tensor(ids)
        x = self.decoder.model.embed_tokens(tokens)
        if features:
            unknown = self.tokenizer.convert_tokens_to_ids("<unk>")
            rows = torch.cat(features)
            x[(tokens == unknown).nonzero().flatten()[: len(rows)]] = rows
        logits: torch.Tensor = self.decoder(inputs_embeds=x[None]).logits[0]
        return logits
