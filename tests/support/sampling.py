"""Sampling for requests whose tokens are all known, without a runner."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from sensorium.runner.request_state import RunningRequest
from sensorium.runner.sampler import choose
from sensorium.runner.token_counts import TokenCounts
from sensorium.runner.upload import Download
from sensorium.types import SampledToken


def sample(
    logits: Tensor, requests: Sequence[RunningRequest]
) -> tuple[list[SampledToken], dict[str, str]]:
    """``choose``, and what came of it; the requests get slots by their order."""
    counts = TokenCounts(max(1, len(requests)), logits.shape[-1], logits.device)
    for slot, running in enumerate(requests):
        running.slot, running.num_counted = slot, 0
        counts.start(running)
        counts.take(running)
    choice = choose(logits, requests, counts)
    return choice.read(Download(choice.tensors).wait())
