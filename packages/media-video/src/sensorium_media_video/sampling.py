"""Which frames of a clip count: the families' published rules, as functions of numbers alone.

Each returns ascending indices, at least one. The rules of one family differ between libraries:

    qwen            transformers (``Qwen2VLVideoProcessor``) and vLLM: a truncated arange in float32
    qwen_vl_utils   qwen-vl-utils (``smart_nframes``): a rounded linspace
    onevision       vLLM, for LLaVA-OneVision: a truncated linspace
    minicpm         the published recipe of MiniCPM-V-2.6: a frame a second

Encoded clips follow vLLM. Where a published rule fails (more frames are wanted than there are, a
clip of one frame), these take what there is. Frames that were sampled before never come here.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from sensorium.errors import MediaError

Indices = tuple[int, ...]


def qwen(
    num_frames: int,
    fps_source: float,
    *,
    fps: float = 2.0,
    num_frames_wanted: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
    temporal_patch: int = 2,
) -> Indices:
    """Qwen2-VL's and Qwen2.5-VL's rule, as transformers and vLLM have it.

    Args:
        num_frames, fps_source: of the clip.
        fps: frames wanted for a second.
        num_frames_wanted: frames wanted, instead of ``fps``.
        min_frames, max_frames: bounds of what ``fps`` leads to.
        temporal_patch: what the count is a multiple of.

    Raises:
        MediaError: ``fps`` counts and the clip's own rate isn't known.
    """
    if num_frames_wanted is not None:
        count: float = min(round(num_frames_wanted / temporal_patch) * temporal_patch, num_frames)
    else:
        most = min(max_frames, num_frames) // temporal_patch * temporal_patch
        count = min(max(_expected(num_frames, fps_source, fps), min_frames), most, num_frames)
    whole = math.floor(count / temporal_patch) * temporal_patch
    if whole < 1:
        return (0,)
    # torch's own: its rounding may give an index more than were asked for, which vLLM keeps.
    indices = torch.arange(0, num_frames, num_frames / whole, dtype=torch.float32).int()
    return tuple(indices.clamp(max=num_frames - 1).tolist())


def qwen_vl_utils(
    num_frames: int,
    fps_source: float,
    *,
    fps: float = 2.0,
    num_frames_wanted: int | None = None,
    min_frames: int = 4,
    max_frames: int = 768,
) -> Indices:
    """The Qwens' rule as qwen-vl-utils has it; arguments as for ``qwen``.

    Raises:
        MediaError: ``fps`` counts and the clip's own rate isn't known.
    """
    if num_frames_wanted is not None:
        count: float = min(round(num_frames_wanted / 2) * 2, num_frames)
    else:
        least = math.ceil(min_frames / 2) * 2
        most = min(max_frames, num_frames) // 2 * 2
        count = min(max(_expected(num_frames, fps_source, fps), least), most, num_frames)
    whole = math.floor(count / 2) * 2
    if whole < 1:
        return (0,)
    return tuple(torch.linspace(0, num_frames - 1, whole).round().long().tolist())


def onevision(
    num_frames: int,
    fps_source: float,
    *,
    num_frames_wanted: int | None = 32,
    fps: float | None = None,
) -> Indices:
    """vLLM's rule for families without one of their own, such as LLaVA-OneVision.

    Args:
        num_frames, fps_source: of the clip.
        num_frames_wanted: frames at most; None: as many as ``fps`` says.
        fps: frames for a second at most; None: as many as ``num_frames_wanted`` says.

    Raises:
        MediaError: ``fps`` is given and the clip's own rate isn't known.
    """
    count = num_frames if num_frames_wanted is None else min(num_frames_wanted, num_frames)
    if fps is not None:
        count = min(count, math.floor(_expected(num_frames, fps_source, fps)))
    count = max(1, count)
    if count == num_frames:
        return tuple(range(num_frames))
    return tuple(np.linspace(0, num_frames - 1, count, dtype=np.int64).tolist())


def minicpm(
    num_frames: int, fps_source: float, *, fps: float = 1.0, num_frames_wanted: int | None = 64
) -> Indices:
    """MiniCPM-V-2.6's recipe: every so many frames one; the middles of equal parts if too many.

    Args:
        num_frames, fps_source: of the clip.
        fps: frames for a second, before the bound; the published recipe has 1.
        num_frames_wanted: frames at most; None: as many as ``fps`` says.

    Raises:
        MediaError: the clip's own rate isn't known.
    """
    _expected(num_frames, fps_source, fps)
    indices = range(0, num_frames, max(1, round(fps_source / fps)))
    if num_frames_wanted is None or len(indices) <= num_frames_wanted:
        return tuple(indices)
    gap = len(indices) / num_frames_wanted
    return tuple(indices[int(i * gap + gap / 2)] for i in range(num_frames_wanted))


def sampled_fps(num_sampled: int, num_frames: int, fps_source: float) -> float:
    """The rate of what was sampled: frames for a second of the clip."""
    return num_sampled / num_frames * fps_source


def _expected(num_frames: int, fps_source: float, fps: float) -> float:
    """How many frames ``fps`` leads to, before it is made whole."""
    if not fps_source > 0:
        raise MediaError(
            "its frames are to be chosen by a rate, and its own rate isn't known; give num_frames."
        )
    return num_frames / fps_source * fps
