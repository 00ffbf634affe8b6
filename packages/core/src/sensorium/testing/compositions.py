"""What must hold of a prompt with its media in place, as an assertion."""

from __future__ import annotations

from collections.abc import Sequence

from sensorium.plugins.compose import TokenizedPrompt
from sensorium.plugins.guard import composition as guard
from sensorium.plugins.guard.door import WrongReturnError
from sensorium.types import Composition, PreparedItem


def check_composition(
    composition: Composition, items: Sequence[PreparedItem], *, axes: int, vocab_size: int
) -> None:
    """Checks spans, masks, rows, ids and positions against each other, as the engine does.

    Raises:
        AssertionError: with a sentence that says what is wrong.
    """
    nothing = TokenizedPrompt(())
    try:
        guard.check_composition(composition, nothing, items, axes=axes, vocab_size=vocab_size)
    except WrongReturnError as wrong:
        raise AssertionError(f"composing gave {wrong}") from wrong
