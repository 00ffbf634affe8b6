"""Fills a decoder and its encoders from safetensors files, and accounts for every weight.

Every name in a file must be claimed by the decoder's or an encoder's table, every parameter must be
filled, every shape must fit; an error names the one that doesn't. Only weights that are known to be
left over from training or conversion are skipped, with a warning. Tensors are read by mmap and
copied straight into place, converted to the engine's dtype on the way.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sensorium.checkpoint import WEIGHT_PATTERNS, Checkpoint, resolve_folder, weight_files
from sensorium.errors import ConfigError, PluginError
from sensorium.models.decoder import Decoder
from sensorium.models.layers import Linear, fused_slots, weight_slots
from sensorium.plugins import EncoderContext, EncoderSpec, ModelFamily, WeightMap

logger = logging.getLogger("sensorium.models")

#: Weights that a decoder doesn't use, as in transformers: classification, reward and value heads,
#: and tables that follow from the config.
_LEFT_OVER = re.compile(
    r"(.*\.)?((score|classifier|qa_outputs|v_head|value_head|reward_head)\..+"
    r"|rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)"
    r"|self_attn\.(masked_bias|causal_mask))"
)
#: The decoder's own name of its output matrix.
_HEAD = "lm_head.weight"
#: dtypes that a weight may have in a file.
FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
#: How many names a message lists.
_SHOWN = 3


@dataclass(slots=True)
class Consumer:
    """A module, or a set of claims, that takes weights from files.

    Attributes:
        label: its name in messages.
        weights: the names it claims.
        slots: where they go; None: it claims names, but isn't built, since it isn't used.
        optional: slots that a file may hold although this module doesn't have them.
        fused: other slots, each of which fills several of ``slots`` at once: their names.
        may_be_missing: files that hold none of its weights are no error.
    """

    label: str
    weights: WeightMap
    slots: Mapping[str, Tensor] | None
    optional: frozenset[str] = frozenset()
    fused: Mapping[str, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)
    filled: set[str] = field(default_factory=set)
    may_be_missing: bool = False

    @property
    def is_missing(self) -> bool:
        """Whether it needs weights and nothing has filled any."""
        return bool(self.slots) and not self.filled


@dataclass(frozen=True, slots=True)
class LoadedEncoders:
    """The encoders that are used.

    Attributes:
        modules: name → module, of those that are ready.
        lost: name → why it couldn't be built or filled.
    """

    modules: dict[str, nn.Module] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def load_model(
    checkpoint: Checkpoint,
    family: ModelFamily,
    decoder: Decoder,
    specs: Mapping[str, EncoderSpec],
    contexts: Mapping[str, EncoderContext],
    *,
    download_dir: str | None = None,
    dummy_seed: int | None = None,
    needs_logits: bool = True,
) -> LoadedEncoders:
    """Fills ``decoder`` and builds and fills the encoders that are used.

    Only the encoder is lost where its plugin fails, where its own source (``EncoderSpec.source``)
    doesn't fit it, and where the checkpoint holds none of its weights. A checkpoint that holds part
    of an encoder's weights is an error, so that a damaged checkpoint never starts without its
    encoders.

    Args:
        specs: every encoder of the architecture; those not used claim their names too.
        contexts: encoder name → its context, for the encoders that are used.
        dummy_seed: fill everything with random weights from this seed and read no file.
        needs_logits: False: an output matrix that the files hold and the decoder lacks isn't read.

    A decoder whose config ties its output matrix to its embedding gets one of its own where the
    files hold one that differs.

    Raises:
        ConfigError: a weight that no table claims, a parameter that no weight fills, a shape or
            dtype that doesn't fit, or missing files.
        PluginError: the family failed.
    """
    result = LoadedEncoders()
    for name, context in contexts.items():
        with _losing(name, specs[name], result):
            result.modules[name] = build_encoder(specs[name], context)
    head = frozenset({_HEAD}) if decoder.config.tied else frozenset()
    weights = family.decoder_weights(checkpoint.config)
    decoder_consumer = Consumer(
        "the decoder", weights, weight_slots(decoder), head, fused_slots(decoder)
    )
    consumers = {}
    for name, spec in specs.items():
        with _losing(name, spec, result):
            consumers[name] = _consumer(spec, result.modules.get(name), checkpoint.config)
    if dummy_seed is not None:
        for consumer in [decoder_consumer, *consumers.values()]:
            fill_randomly(consumer.slots or {}, dummy_seed)
        return result
    main = [consumers[name] for name in consumers if specs[name].source is None]
    source = family.decoder_source(checkpoint.config)
    if source is None:
        main.insert(0, decoder_consumer)
    else:
        fill([decoder_consumer], _source_files(source, download_dir), source)
    if main:
        fill(main, checkpoint.weight_files(), checkpoint.name)
    if head and needs_logits:
        own = checkpoint.weight_files() if source is None else _source_files(source, download_dir)
        _untie(decoder, weights, own, source or checkpoint.name)
    for name in list(result.modules):
        with _losing(name, specs[name], result):
            _fill_from_source(specs[name], contexts[name], consumers[name], download_dir)
        if name in result.modules and consumers[name].is_missing:
            result.lost[name] = (
                f"{checkpoint.name} holds no weights of {consumers[name].label}, which would fill "
                f"{_listed(sorted(consumers[name].slots or ()))}."
            )
            del result.modules[name]
    return result


@contextmanager
def _losing(name: str, spec: EncoderSpec, result: LoadedEncoders) -> Iterator[None]:
    """Records an encoder as lost if the failure is its own.

    A ``ConfigError`` of an encoder whose weights are in the checkpoint is an error of the
    checkpoint.
    """
    try:
        yield
    except (PluginError, ConfigError) as error:
        if isinstance(error, ConfigError) and spec.source is None:
            raise
        result.lost[name] = str(error)
        result.modules.pop(name, None)


def load_encoder(
    spec: EncoderSpec,
    context: EncoderContext,
    checkpoint: Checkpoint,
    *,
    download_dir: str | None = None,
) -> nn.Module:
    """Builds and fills one encoder; weights that others claim are skipped.

    Raises:
        ConfigError, PluginError: as ``load_model``.
    """
    encoder = build_encoder(spec, context)
    consumer = _consumer(spec, encoder, checkpoint.config)
    consumer.may_be_missing = False
    if spec.source is None:
        fill([consumer], checkpoint.weight_files(), checkpoint.name, others=True)
    else:
        _fill_from_source(spec, context, consumer, download_dir)
    return encoder


def build_encoder(spec: EncoderSpec, context: EncoderContext) -> nn.Module:
    """An encoder on its device, parameters in the engine's dtype and not yet filled.

    Buffers keep their dtype and, unless a weight fills them, the values they were built with;
    so only those may be on the meta device that a weight fills.

    Raises:
        PluginError: its plugin can't build it.
    """
    encoder = spec.build(context)
    persistent = set(encoder.state_dict())
    for path, module in encoder.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            dtype = context.dtype if parameter.is_floating_point() else parameter.dtype
            data = _placed(parameter.detach(), dtype, context.device)
            setattr(module, name, nn.Parameter(data, requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            full_name = f"{path}.{name}" if path else name
            if buffer.is_meta and full_name not in persistent:
                raise PluginError(
                    f"The encoder {spec.name} of {context.architecture} builds its buffer "
                    f"{full_name} on the meta device, where it has no values."
                )
            setattr(module, name, _placed(buffer, buffer.dtype, context.device))
    return encoder.eval()


def fill(
    consumers: Sequence[Consumer], files: Iterable[Path], source: str, *, others: bool = False
) -> None:
    """Copies every tensor of ``files`` to the consumer that claims it.

    Args:
        source: the files' origin in messages.
        others: names that no consumer claims belong to other modules.

    Raises:
        ConfigError: as ``load_model``.
    """
    unclaimed: list[str] = []
    for file in files:
        with _opened(file) as reader:
            for name in reader.keys():  # noqa: SIM118 (a file handle, not a mapping)
                takers = [consumer for consumer in consumers if consumer.weights.claims(name)]
                if not takers:
                    unclaimed.append(name)
                for consumer in takers:
                    _deliver(reader, name, consumer, source)
    if not others:
        _tell_unclaimed(unclaimed, source)
    for consumer in consumers:
        if consumer.may_be_missing and consumer.is_missing:
            continue
        missing = sorted(set(consumer.slots or ()) - consumer.filled)
        if missing:
            raise ConfigError(
                f"{source} lacks weights of {consumer.label}: nothing fills {_listed(missing)}."
            )


def _tell_unclaimed(names: Sequence[str], source: str) -> None:
    """Warns of weights that are known to be unused, and refuses all others."""
    left_over = [name for name in names if _LEFT_OVER.fullmatch(name)]
    unknown = [name for name in names if name not in left_over]
    if unknown:
        raise ConfigError(
            f"{source} has weights that neither the decoder nor an encoder of the model's "
            f"plugins claims: {_listed(unknown)}."
        )
    if left_over:
        logger.warning("%s has weights that nobody uses: %s", source, _listed(left_over))


def _untie(decoder: Decoder, weights: WeightMap, files: Iterable[Path], source: str) -> None:
    """Gives the decoder the files' output matrix, if there is one that isn't its embedding."""
    embedding = decoder.embed_tokens.weight
    size, width = embedding.shape
    for file in files:
        with _opened(file) as reader:
            for name in reader.keys():  # noqa: SIM118 (a file handle, not a mapping)
                if not weights.claims(name) or weights.target(name) != _HEAD:
                    continue
                head = Linear(
                    width, size, bias=False, dtype=embedding.dtype, device=embedding.device
                )
                slots = {_HEAD: head.weight.detach()}
                _deliver(reader, name, Consumer("the decoder", weights, slots), source)
                if torch.equal(head.weight, embedding):
                    return
                logger.warning(
                    "%s ties its output matrix to its embedding (tie_word_embeddings), but holds "
                    "another, %s, which is used",
                    source,
                    name,
                )
                decoder.lm_head = head
                return


def fill_randomly(slots: Mapping[str, Tensor], seed: int) -> None:
    """Small random weights that depend on the seed and each parameter's name alone.

    Matrices are drawn with deviation 0.02, vectors are 0 (biases) or 1 (norms), so that
    activations stay finite at any depth.
    """
    for name, slot in slots.items():
        if not slot.is_floating_point():
            slot.zero_()
        elif slot.dim() < 2:
            slot.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
            generator = torch.Generator(slot.device)
            generator.manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            slot.normal_(0.0, 0.02, generator=generator)


def _consumer(spec: EncoderSpec, encoder: nn.Module | None, config: Mapping[str, Any]) -> Consumer:
    slots = None if encoder is None else weight_slots(encoder)
    return Consumer(
        f"the encoder {spec.name}",
        spec.weight_map(config),
        slots,
        may_be_missing=spec.source is None,
    )


def _fill_from_source(
    spec: EncoderSpec, context: EncoderContext, consumer: Consumer, download_dir: str | None
) -> None:
    """Fills an encoder that has a source of its own; others were filled with the checkpoint."""
    if spec.source is not None:
        source = spec.source(context)
        fill([consumer], _source_files(source, download_dir), source)


def _source_files(source: str, download_dir: str | None) -> list[Path]:
    path = Path(source).expanduser()
    if not path.is_file():
        path = resolve_folder(source, download_dir=download_dir, patterns=WEIGHT_PATTERNS)
    return weight_files(path, source)


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{file} cannot be read as a safetensors file.") from error


def _deliver(reader: safe_open, name: str, consumer: Consumer, source: str) -> None:
    target = consumer.weights.target(name)
    if target is None or consumer.slots is None or target in consumer.optional:
        return
    slot, parts = consumer.fused.get(target, (consumer.slots.get(target), (target,)))
    if slot is None:
        raise ConfigError(
            f"{source} has the weight {name}, which is {target} of {consumer.label}; with this "
            "config it has no such parameter."
        )
    if consumer.filled.intersection(parts):
        raise ConfigError(f"{source} has {target} of {consumer.label} twice, again as {name}.")
    view = reader.get_slice(name)  # type: ignore[no-untyped-call]
    shape, dtype = tuple(view.get_shape()), view.get_dtype()
    if shape != tuple(slot.shape):
        raise ConfigError(
            f"{source} has {name} of shape {_shape(shape)}; {target} of {consumer.label} is "
            f"{_shape(tuple(slot.shape))}."
        )
    if slot.is_floating_point() and dtype not in FLOAT_DTYPES:
        raise ConfigError(
            f"{source} has {name} of dtype {dtype}; quantized weights aren't supported, "
            f"only {', '.join(FLOAT_DTYPES)}."
        )
    slot.copy_(reader.get_tensor(name))  # type: ignore[no-untyped-call]
    consumer.filled.update(parts)


def _placed(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if tensor.is_meta:
        return torch.empty_like(tensor, dtype=dtype, device=device)
    return tensor.to(device=device, dtype=dtype)


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
