"""llguidance, where it is installed, and the limits under which it works here."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from sensorium.errors import UnsupportedError


def llguidance() -> ModuleType:
    """The library.

    Raises:
        UnsupportedError: it isn't installed.
    """
    try:
        import llguidance
    except ImportError:
        raise UnsupportedError(
            "structured_outputs needs the package llguidance, which is not installed: "
            "pip install 'sensorium-core[structured]'."
        ) from None
    return llguidance


def limits() -> Any:
    """What the library may spend on one grammar (its ``LLParserLimits``).

    They count the library's own work, so the same grammar always has the same outcome. A grammar
    that exceeds one of them while it is compiled is refused; one that does so later ends its
    request.
    """
    return llguidance().LLParserLimits(
        initial_lexer_fuel=200_000,
        step_lexer_fuel=50_000,
        max_lexer_states=50_000,
        max_grammar_size=100_000,
        step_max_items=20_000,
        verbose_errors=False,
    )
