"""Contracts: tests that check a plugin against the interface.

    from sensorium.testing import model_context
    from sensorium.testing.kind import MediaKindContract
    from sensorium.testing.adapter import MediaAdapterContract
    from sensorium.testing.serving import ServingContract
    from sensorium.testing.family import ModelFamilyContract

Each is a class of pytest tests: derive from it, say how your class is made and which values to
try it with, and pytest runs the rest; ``model_context`` is what an adapter is made with.
``docs/testing-plugins.md`` has an example. Nothing heavy is imported until a test runs, so that
having Sensorium installed costs another project nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensorium.testing.throwaway import model_context

__all__ = ["model_context"]


def __getattr__(name: str) -> Any:
    if name == "model_context":
        from sensorium.testing.throwaway import model_context

        return model_context
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
