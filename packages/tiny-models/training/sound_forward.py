"""tiny-audio: the model in transformers' classes, and its forward pass over rectangular batches.

Whisper's encoder and Llama are transformers'; the projector is written out as Ultravox v0.5
publishes it: RMS norm, matrix, SwiGLU, RMS norm, matrix. Names are the published ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from batches import IGNORED
from decoder import Forward, Inputs
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

NORM_EPS = 1e-6
#: Weight of the hints' loss, and where a hint begins: at odds of e to that power.
HINT_WEIGHT, HINT_ODDS = 0.3, -6.0


class Norm(nn.RMSNorm):
    """With the weight in the input's dtype, as the fused kernel wants it."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, size)."""
        return functional.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


class Projector(nn.Module):
    """(…, stack · tower width) → (…, decoder width)."""

    def __init__(self, stacked: int, inner: int, hidden: int) -> None:
        super().__init__()
        self.ln_pre = Norm(stacked, NORM_EPS)
        self.linear_1 = nn.Linear(stacked, inner, bias=False)
        self.ln_mid = Norm(inner // 2, NORM_EPS)
        self.linear_2 = nn.Linear(inner // 2, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Rows of the tower, stacked → embedding rows."""
        values, gate = self.linear_1(self.ln_pre(x)).chunk(2, dim=-1)
        out: Tensor = self.linear_2(self.ln_mid(values * functional.silu(gate)))
        return out


class TinyAudio(nn.Module):
    """What ``config.json`` describes, its weights random."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        tower, text = config["audio_config"], config["text_config"]
        self.stack = config["stack_factor"]
        self.audio_tower = WhisperEncoder(WhisperConfig(**tower))
        self.multi_modal_projector = Projector(
            self.stack * tower["d_model"], config["hidden_size"], text["hidden_size"]
        )
        self.language_model = LlamaForCausalLM(LlamaConfig(**text))


class SoundForward(Forward):
    """Loss and predictions of a ``TinyAudio``.

    The loss has a second part, which gets the tower going long before the decoder knows where to
    look: a clip's tokens are to hint at the words of the answer about it, each by a likeness to the
    word's embedding. In which order the words come is left to the decoder.
    """

    def __init__(self, model: TinyAudio, device: torch.device) -> None:
        super().__init__(model.language_model.model, model.language_model.config, device)
        self.tower, self.projector = model.audio_tower, model.multi_modal_projector
        self.stack = model.stack

    def loss(self, groups: list[Inputs], media: Tensor, smoothing: float = 0.0) -> Tensor:
        """Mean cross-entropy over the answer tokens of the batch, and the hints' share."""
        parts = self.see(media).split([group.num_items for group in groups])
        logits = [self.logits(group, seen) for group, seen in zip(groups, parts, strict=True)]
        labels = torch.cat([group.labels for group in groups])
        loss = functional.cross_entropy(
            torch.cat(logits).float(), labels, ignore_index=IGNORED, label_smoothing=smoothing
        )
        for group, seen in zip(groups, parts, strict=True):
            if 0 < group.num_items <= len(group.ids):  # one clip a row
                loss = loss + HINT_WEIGHT * self.hints(group, seen)
        return loss

    def hints(self, group: Inputs, seen: Tensor) -> Tensor:
        """How badly the rows' only clips hint at their answers' words, in nats a token.

        Args:
            group: rows of one clip each, rows without one behind them.
            seen: (clips, tokens, hidden), the clips' embeddings.
        """
        weight = self.decoder.embed_tokens.weight
        num_words = len(weight)
        found = functional.linear(seen, weight.to(seen.dtype)).float().logsumexp(1) + HINT_ODDS
        row = group.places // group.ids.shape[1]
        spare = (group.labels == IGNORED) | (row >= len(seen))
        words = (row * num_words + group.labels).masked_fill(spare, len(seen) * num_words)
        wanted = found.new_zeros(len(seen) * num_words + 1).scatter(0, words, 1.0)[:-1]
        wrong = functional.binary_cross_entropy_with_logits(
            found.reshape(-1), wanted, reduction="sum"
        )
        return wrong / wanted.sum().clamp(min=1.0)

    def see(self, media: Tensor) -> Tensor:
        """Spectrograms (n, frames, bins) to embeddings (n, tokens, hidden)."""
        tower = self.tower
        x = media.to(tower.conv1.weight.dtype).transpose(1, 2)
        x = functional.gelu(tower.conv1(x))
        x = functional.gelu(tower.conv2(x)).transpose(1, 2)
        x = x + tower.embed_positions.weight[: x.shape[1]]
        for layer in tower.layers:
            x = tower_layer(layer, x)
        x = tower.layer_norm(x)
        x = functional.pad(x, (0, 0, 0, -x.shape[1] % self.stack))
        out: Tensor = self.projector(x.reshape(len(x), -1, self.stack * x.shape[2]))
        return out


def tower_layer(layer: Any, x: Tensor) -> Tensor:
    """One layer of Whisper's encoder over (clips, rows, width)."""
    attention = layer.self_attn
    n, length, _ = x.shape
    normed = layer.self_attn_layer_norm(x)
    query, key, value = (
        project(normed).reshape(n, length, attention.num_heads, -1).transpose(1, 2)
        for project in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    seen = functional.scaled_dot_product_attention(query, key, value)
    x = x + attention.out_proj(seen.transpose(1, 2).reshape(n, length, -1))
    out: Tensor = x + layer.fc2(functional.gelu(layer.fc1(layer.final_layer_norm(x))))
    return out


def published(model: TinyAudio) -> dict[str, Tensor]:
    """The weights in bfloat16 under published names, without the tied head."""
    return {
        name: tensor.detach().to(torch.bfloat16).cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "language_model.lm_head.weight"
    }


def load_published(model: TinyAudio, weights: Mapping[str, Tensor]) -> None:
    """Fills the model from published names.

    Raises:
        SystemExit: names that are missing or too many.
    """
    own = {name: tensor.float() for name, tensor in weights.items()}
    missing, unexpected = model.load_state_dict(own, strict=False)
    if set(missing) - {"language_model.lm_head.weight"} or unexpected:
        raise SystemExit(f"missing {missing}, unexpected {unexpected}")
