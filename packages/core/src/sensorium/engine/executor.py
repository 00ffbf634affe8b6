"""``Executor``: the interface that carries out the scheduler's batches, in two halves.

    launch   the forward pass: hidden states of the rows that are wanted
    sample   their tokens

Between the two, while the device computes, the host works out what it must know before a token is
chosen. ``Runner`` is the only implementation. Batches, masks and outputs are plain data, so that
another executor may run in another process or drive several devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sensorium.stats import Histogram
from sensorium.types import Batch, ExecutorInfo, Masks, StepOutput


class Pending(Protocol):
    """A step that may still be running."""

    def result(self) -> StepOutput:
        """The step's output; waits until the step is done. To be called once."""


class Executor(Protocol):
    """Used from one thread; every ``launch`` is followed by its ``sample`` before the next."""

    @property
    def info(self) -> ExecutorInfo:
        """Properties that the engine depends on."""

    def launch(self, batch: Batch) -> Any:
        """Starts a step; only ``sample`` can use the returned handle."""

    def sample(self, launched: Any, masks: Masks | None = None) -> Pending:
        """Starts choosing a token for each chunk that wants rows.

        Args:
            launched: what the last ``launch`` returned.
            masks: the tokens that some requests may choose from; None: no request is restricted.
        """

    def encode_times(self) -> Mapping[str, Histogram]:
        """Kind → how long encoding an item took, in seconds."""

    def close(self) -> None:
        """Gives back the device's memory."""
