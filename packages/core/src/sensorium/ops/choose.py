"""Chooses the attention backend of each kind of layer.

``SENSORIUM_ATTENTION`` forces one for all; else each kind of layer gets the first of ``BACKENDS``
that lacks nothing it needs. All backends share the cache's layout, so layers may differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sensorium.errors import ConfigError
from sensorium.ops import extension
from sensorium.ops.attention import AttentionBackend, AttentionLayout, AttentionSpec
from sensorium.ops.flash import FlashAttention
from sensorium.ops.paged import PagedAttention
from sensorium.ops.reference import ReferenceAttention

VARIABLE = extension.VARIABLE
#: Every name the variable may have, the best first.
BACKENDS: Mapping[str, type[AttentionBackend]] = {
    "flash": FlashAttention,
    "paged": PagedAttention,
    "reference": ReferenceAttention,
}


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """The backends of a decoder.

    Attributes:
        of: what computes each kind of layer.
        passed_over: name → what it lacks, for the better backends that some layer did not get.
    """

    of: Mapping[AttentionSpec, AttentionBackend]
    passed_over: Mapping[str, str]

    def describe(self) -> str:
        """For the start-up line: what is used, and why not something better."""
        names = " and ".join(dict.fromkeys(backend.name for backend in self.of.values()))
        level = extension.load().cpu_level
        if "paged" in names and level:
            names += f" ({level})"
        why = "; ".join(f"{name} lacks {lack}" for name, lack in self.passed_over.items())
        return f"{names} [{why}]" if why else names


def choose_attention(specs: Iterable[AttentionSpec], layout: AttentionLayout) -> AttentionChoice:
    """The backends for layers of these kinds.

    Raises:
        ConfigError: the variable names no backend, or one that lacks something a layer needs.
    """
    forced = os.environ.get(VARIABLE)
    if forced and forced not in BACKENDS:
        raise ConfigError(f"{VARIABLE} is {forced!r}; allowed are {', '.join(BACKENDS)}.")
    backends = [BACKENDS[name]() for name in ([forced] if forced else BACKENDS)]
    chosen: dict[AttentionSpec, AttentionBackend] = {}
    passed_over: dict[str, str] = {}
    for spec in specs:
        for backend in backends:
            lack = backend.lacks(spec, layout)
            if lack is None:
                chosen[spec] = backend
                break
            passed_over[backend.name] = lack
        else:
            raise ConfigError(
                f"{VARIABLE} is {forced!r}, but that backend lacks {passed_over[str(forced)]}, "
                "which the model needs."
            )
    return AttentionChoice(chosen, passed_over)
