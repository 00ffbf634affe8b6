"""Which attention backend an engine uses: ``SENSORIUM_ATTENTION``, else the best that fits."""

from __future__ import annotations

import os

from sensorium.errors import ConfigError
from sensorium.ops.attention import AttentionBackend, AttentionSpec
from sensorium.ops.reference import ReferenceAttention

VARIABLE = "SENSORIUM_ATTENTION"
#: Every name the variable may have, and the backend where it is built.
BACKENDS: dict[str, type[AttentionBackend] | None] = {
    "reference": ReferenceAttention,
    "paged": None,
    "flash": None,
}


def choose_attention(specs: set[AttentionSpec]) -> AttentionBackend:
    """The backend for layers of these kinds.

    Raises:
        ConfigError: the variable names no backend, one that isn't built, or one that lacks
            something a layer needs.
    """
    built = [name for name, backend in BACKENDS.items() if backend is not None]
    name = os.environ.get(VARIABLE) or built[0]
    if name not in BACKENDS:
        raise ConfigError(f"{VARIABLE} is {name!r}; allowed are {', '.join(BACKENDS)}.")
    backend = BACKENDS[name]
    if backend is None:
        raise ConfigError(
            f"{VARIABLE} is {name!r}, which isn't built yet; built: {', '.join(built)}."
        )
    chosen = backend()
    for spec in specs:
        if lack := chosen.lacks(spec):
            raise ConfigError(f"The attention backend {name} lacks {lack}, which the model needs.")
    return chosen
