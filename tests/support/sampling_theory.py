"""What sampled tokens ought to be: distributions from the parameters' descriptions, and a test.

They are computed one token at a time, in float64; what is drawn is held against them by Pearson's
chi-squared test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

#: Deviations of a normal variable beyond which a statistic is no accident: 3 in 100,000.
LIMIT = 4.0


def distribution(
    logits: Floats,
    prompt: Sequence[int],
    generated: Sequence[int],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    presence_penalty: float = 0.0,
    frequency_penalty: float = 0.0,
    logit_bias: Mapping[int, float] | None = None,
    banned: Sequence[int] = (),
) -> Floats:
    """Bans and bias, penalties, temperature, min-p, top-k, top-p: the documented order."""
    edited = []
    for token, logit in enumerate(logits):
        value = float(logit) + (logit_bias or {}).get(token, 0.0)
        if token in prompt or token in generated:
            value = value / repetition_penalty if value > 0 else value * repetition_penalty
        count = list(generated).count(token)
        value -= frequency_penalty * count + (presence_penalty if count else 0.0)
        edited.append(-np.inf if token in banned else value / temperature)
    weights = np.exp(np.array(edited) - max(edited))
    weights[weights < min_p * weights.max()] = 0.0
    order = sorted(range(len(weights)), key=lambda token: (-weights[token], token))
    order = order[: top_k or None]
    whole, mass, kept = sum(weights[token] for token in order), 0.0, []
    for token in order:
        if mass < top_p * whole - 1e-12:
            kept.append(token)
        mass += weights[token]
    result = np.zeros(len(weights))
    result[kept] = weights[kept]
    return np.asarray(result / result.sum())


def deviation(counts: Floats, expected: Floats) -> float:
    """How many deviations Pearson's statistic lies from its mean (Wilson and Hilferty 1931).

    Classes that ought to hold fewer than five draws are counted as one.
    """
    assert counts[expected == 0].sum() == 0, "an impossible token was drawn"
    wanted = expected * counts.sum()
    rare = (wanted < 5) & (expected > 0)
    groups = [(counts[i], wanted[i]) for i in np.flatnonzero(~rare & (expected > 0))]
    if rare.any():
        groups.append((counts[rare].sum(), wanted[rare].sum()))
    freedom = len(groups) - 1
    if freedom == 0:
        return 0.0
    statistic = sum((count - want) ** 2 / want for count, want in groups)
    spread = 2 / (9 * freedom)
    return float(((statistic / freedom) ** (1 / 3) - (1 - spread)) / np.sqrt(spread))
