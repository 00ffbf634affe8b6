"""Sensorium: a multimodal LLM inference engine.

    from sensorium import LLM

    with LLM(model="folder-or-hub-name") as llm:
        for output in llm.generate("The sky is"):
            print(output.outputs[0].text)

Importing this package imports neither torch nor any plugin; the names below are loaded when
they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sensorium.errors import (
    CacheMissError,
    ConfigError,
    EngineClosedError,
    EngineDeadError,
    EngineError,
    LimitError,
    MediaError,
    OverloadedError,
    PluginError,
    RequestError,
    SensoriumError,
    UnsupportedError,
)
from sensorium.outputs import (
    CompletionOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    Logprob,
    PoolingOutput,
    PoolingRequestOutput,
    RequestMetrics,
    RequestOutput,
    RequestOutputKind,
)
from sensorium.pooling_params import PoolingParams
from sensorium.sampling_params import SamplingParams
from sensorium.structured_outputs import StructuredOutputs

if TYPE_CHECKING:
    from sensorium.engine.async_engine import AsyncEngine
    from sensorium.llm import LLM

__version__ = "0.1.0"

__all__ = [
    "LLM",
    "AsyncEngine",
    "CacheMissError",
    "CompletionOutput",
    "ConfigError",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineClosedError",
    "EngineDeadError",
    "EngineError",
    "LimitError",
    "Logprob",
    "MediaError",
    "OverloadedError",
    "PluginError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "RequestError",
    "RequestMetrics",
    "RequestOutput",
    "RequestOutputKind",
    "SamplingParams",
    "SensoriumError",
    "StructuredOutputs",
    "UnsupportedError",
    "__version__",
]

_LAZY = {"LLM": "sensorium.llm", "AsyncEngine": "sensorium.engine.async_engine"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
