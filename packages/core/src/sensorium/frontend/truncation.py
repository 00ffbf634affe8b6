"""Prompts cut to a number of tokens before they are admitted (``truncate_prompt_tokens``)."""

from __future__ import annotations

from dataclasses import replace

from sensorium.errors import RequestError
from sensorium.frontend.frontend import PreparedPrompt
from sensorium.sampling_params import SamplingParams


def truncated(prepared: PreparedPrompt, sampling: SamplingParams, room: int) -> PreparedPrompt:
    """The prompt with as many tokens as ``sampling`` keeps of it.

    As in vLLM the ids are cut as they are, so a BOS in front goes with what it begins.

    Args:
        room: tokens kept by -1.

    Raises:
        RequestError: a prompt with items would have to be cut.
    """
    wanted = sampling.truncate_prompt_tokens
    if wanted is None:
        return prepared
    composition = prepared.composition
    num_kept, num_tokens = room if wanted == -1 else wanted, len(composition.token_ids)
    if num_tokens <= num_kept:
        return prepared
    if composition.spans:
        raise RequestError(
            f"The prompt has {num_tokens} tokens and truncate_prompt_tokens keeps {num_kept}, but "
            "prompts with items aren't cut; shorten its text."
        )
    cut = num_tokens - num_kept if sampling.truncation_side == "left" else 0
    positions = composition.positions
    return replace(
        prepared,
        composition=replace(
            composition,
            token_ids=composition.token_ids[cut : cut + num_kept],
            # Of text alone they count from 0 wherever it begins.
            positions=None if positions is None else positions[:, :num_kept],
        ),
    )
