"""From the engine's log-probabilities at one place to what a caller gets."""

from __future__ import annotations

from collections.abc import Mapping

from sensorium.outputs import Logprob
from sensorium.tokenizer import Tokenizer
from sensorium.types import TokenLogprobs


def logprob_entry(
    token_id: int, found: TokenLogprobs, tokenizer: Tokenizer
) -> Mapping[int, Logprob]:
    """The best tokens and the one that stands there, by token id."""
    entry = {
        top_id: Logprob(logprob, rank, tokenizer.token_text(top_id))
        for rank, (top_id, logprob) in enumerate(
            zip(found.top_ids, found.top_logprobs, strict=True), start=1
        )
    }
    if token_id not in entry:
        entry[token_id] = Logprob(found.logprob, found.rank, tokenizer.token_text(token_id))
    return entry
