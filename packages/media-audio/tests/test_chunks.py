"""Token counts equal the published rule, written out here, over thousands of lengths."""

from __future__ import annotations

import math
import random

import pytest

from sensorium_media_audio.chunks import chunk_frames, chunk_tokens, clip_tokens
from sensorium_media_audio.mel import num_frames


def published(num_samples: int) -> int:
    """As the checkpoint's processor counts: mel frames of the padded clip, chunks of 3,000 of
    them, a token for each 16 begun."""
    num_samples = max(num_samples, 320)
    padded = math.ceil(num_samples / 160) * 160
    frames, tokens = padded // 160, 0
    for offset in range(0, frames, 3000):
        tokens += max(1, math.ceil(min(3000, frames - offset) / (2 * 8)))
    return tokens


def test_thousands_of_lengths() -> None:
    rng = random.Random(0)
    lengths = [1, 159, 160, 161, 319, 320, 321, 479_999, 480_000, 480_001, 480_161, 9_600_000]
    lengths += [rng.randrange(1, 9_600_001) for _ in range(5000)]
    lengths += [rng.randrange(1, 50_000) for _ in range(5000)]
    for length in lengths:
        assert clip_tokens(length, 8) == published(length), length


@pytest.mark.parametrize(("seconds", "tokens"), [(1, 7), (10, 63), (30, 188), (31, 195), (60, 376)])
def test_known_counts(seconds: int, tokens: int) -> None:
    assert clip_tokens(16_000 * seconds, 8) == tokens


def test_the_older_rule_differs() -> None:
    """The repository's tag v0.5 counts ceil(round(n / 320 + 1e-4) / 8) for one chunk."""
    older = [math.ceil(round(n / 320 + 1e-4) / 8) for n in range(320, 50_000)]
    ours = [clip_tokens(n, 8) for n in range(320, 50_000)]
    assert older != ours
    assert max(abs(a - b) for a, b in zip(older, ours, strict=True)) == 1


def test_chunks_are_whole_but_the_last() -> None:
    assert chunk_frames(num_frames(16_000 * 61)) == [3000, 3000, 100]
    assert chunk_frames(3000) == [3000]
    assert chunk_frames(3001) == [3000, 1]
    assert [chunk_tokens(n, 8) for n in (1, 16, 17, 3000)] == [1, 1, 2, 188]
