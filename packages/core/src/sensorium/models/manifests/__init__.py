"""What published checkpoints hold: the names and shapes of their weights, and their configs.

One JSON file a checkpoint, each naming its sources. Weights are listed as patterns over named
sizes, so that the same file describes the published checkpoint and, with other sizes, a tiny
one that is spelt alike. Nothing at run time reads these: they are the reference that the
weight tables are checked against.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

_DTYPE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class TensorPattern:
    """One line of a manifest.

    Attributes:
        name: as published; ``{i}`` stands for a layer's number.
        shape: names of sizes, or numbers.
        count: the name of the size that says how many layers there are; None: one tensor.
    """

    name: str
    shape: tuple[str | int, ...]
    count: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A published checkpoint without its weights' values.

    Attributes:
        model: its hub name.
        sources: what was read where.
        dtype: of every tensor.
        total_bytes: of all tensors, as published; ``sources`` says where.
        sizes: the named sizes of the published checkpoint.
        config, preprocessor_config, processor_config, generation_config: the published files,
            {} for one that isn't published or isn't needed here.
    """

    model: str
    sources: Mapping[str, str]
    dtype: str
    total_bytes: int
    sizes: Mapping[str, int]
    tensors: tuple[TensorPattern, ...]
    config: Mapping[str, Any]
    preprocessor_config: Mapping[str, Any]
    processor_config: Mapping[str, Any]
    generation_config: Mapping[str, Any]

    def shapes(self, sizes: Mapping[str, int] | None = None) -> dict[str, tuple[int, ...]]:
        """Every tensor's published name and its shape, for ``sizes`` or the published ones."""
        values = self.sizes if sizes is None else sizes
        shapes: dict[str, tuple[int, ...]] = {}
        for tensor in self.tensors:
            shape = tuple(n if isinstance(n, int) else values[n] for n in tensor.shape)
            if tensor.count is None:
                shapes[tensor.name] = shape
                continue
            for i in range(values[tensor.count]):
                shapes[tensor.name.format(i=i)] = shape
        return shapes

    def num_bytes(self) -> int:
        """Bytes of all tensors at the published sizes."""
        elements = sum(math.prod(shape) for shape in self.shapes().values())
        return elements * _DTYPE_BYTES[self.dtype]


def load_manifest(name: str, package: str = __name__) -> Manifest:
    """Reads the manifest ``name`` ("llama_3_2_1b") out of ``package``, this one or a plugin's."""
    text = files(package).joinpath(f"{name}.json").read_text(encoding="utf-8")
    fields = json.loads(text)
    tensors = tuple(
        TensorPattern(line["name"], tuple(line["shape"]), line.get("count"))
        for line in fields.pop("tensors")
    )
    return Manifest(tensors=tensors, **fields)
