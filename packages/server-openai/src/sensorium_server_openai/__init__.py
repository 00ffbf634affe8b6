"""The OpenAI-compatible server: an ASGI application around one ``AsyncEngine``.

``build_app`` makes the application, ``sensorium serve`` runs it. Importing this package imports
neither torch nor the engine.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensorium_server_openai.app import build_app
    from sensorium_server_openai.options import Limits, ServerOptions

__all__ = ["Limits", "ServerOptions", "build_app"]

_LAZY = {
    "build_app": "sensorium_server_openai.app",
    "Limits": "sensorium_server_openai.options",
    "ServerOptions": "sensorium_server_openai.options",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
