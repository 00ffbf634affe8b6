"""How long a clip a model can take: one that fills its context is refused before it is decoded."""

from __future__ import annotations

from sensorium.errors import MediaError
from sensorium.plugins import ModelContext


def check_length(num_tokens: int, context: ModelContext, what: str, options: str) -> None:
    """Holds an item's tokens against the positions that the model has.

    Args:
        what: the frames that count, for the message.
        options: the ``mm_processor_kwargs`` that make it shorter.

    Raises:
        MediaError: it has more.
    """
    most = context.decoder.max_positions
    if num_tokens > most:
        raise MediaError(
            f"{what} take {num_tokens} tokens, and the model has {most} positions; lower {options}."
        )
