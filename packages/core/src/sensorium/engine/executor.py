"""``Executor``: whoever carries out the scheduler's batches, in two halves.

    launch   the forward pass: hidden states of the rows that are wanted
    sample   their tokens

What must be known on the host before a token is chosen is worked out between the two, while the
device computes. ``Runner`` is the one there is. Batches, masks and outputs are plain data, so that
another may stand behind a process border, or before several devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sensorium.stats import Histogram
from sensorium.types import Batch, ExecutorInfo, Masks, StepOutput


class Pending(Protocol):
    """A step that may still be running."""

    def result(self) -> StepOutput:
        """What came of it, once it is done; to be called once."""


class Executor(Protocol):
    """Used from one thread; every ``launch`` is followed by its ``sample`` before the next."""

    @property
    def info(self) -> ExecutorInfo:
        """What the engine must know of it."""

    def launch(self, batch: Batch) -> Any:
        """Starts a step; the handle means something to ``sample`` alone."""

    def sample(self, launched: Any, masks: Masks | None = None) -> Pending:
        """Starts choosing a token for each chunk that wants rows.

        Args:
            launched: what the last ``launch`` returned.
            masks: what some requests may choose from; None: all of them from every token.
        """

    def encode_times(self) -> Mapping[str, Histogram]:
        """Kind → how long encoding an item took, in seconds."""

    def close(self) -> None:
        """Gives back the device's memory."""
