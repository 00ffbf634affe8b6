"""How Ultravox cuts a clip into chunks, and how many tokens each takes.

The rule is that of the checkpoint's own code since its later revision (the one vLLM names by its
commit 9a3c571), not that of the repository's tag v0.5: those differ by a token at some lengths.
"""

from __future__ import annotations

from sensorium_media_audio.mel import HOP, num_frames

#: Spectrogram frames in a chunk: 30 s.
CHUNK_FRAMES = 3_000
#: Shorter clips are padded with silence to two hops.
MIN_SAMPLES = 2 * HOP


def padded_length(num_samples: int) -> int:
    """Samples of a clip after padding."""
    return max(num_samples, MIN_SAMPLES)


def chunk_frames(frames: int) -> list[int]:
    """Spectrogram frames of each chunk: all of them whole but the last."""
    whole, rest = divmod(frames, CHUNK_FRAMES)
    return [CHUNK_FRAMES] * whole + [rest] * (rest > 0)


def chunk_tokens(frames: int, stack: int) -> int:
    """Embedding rows of one chunk: the tower halves it, and ``stack`` of its rows become one."""
    return -(-frames // (2 * stack))


def clip_tokens(num_samples: int, stack: int) -> int:
    """Embedding rows of a clip of so many samples at 16 kHz."""
    frames = num_frames(padded_length(num_samples))
    return sum(chunk_tokens(chunk, stack) for chunk in chunk_frames(frames))
