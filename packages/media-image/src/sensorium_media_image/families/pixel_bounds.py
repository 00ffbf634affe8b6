"""The Qwens' bounds on the area of a resized image or frame, in every spelling.

``min_pixels`` and ``max_pixels``, or both as ``size`` {"shortest_edge", "longest_edge"}, which name
the same two areas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sensorium.errors import ConfigError, RequestError
from sensorium_media_image.fields import Section
from sensorium_media_image.towers.qwen_config import QwenTowerConfig

#: Steps of the published processor, and the values for which they are built.
_BUILT_STEPS: Mapping[str, tuple[Any, ...]] = {
    "do_resize": (True,),
    "do_rescale": (True,),
    "do_normalize": (True,),
    "do_convert_rgb": (True,),
    "resample": (3,),
}
#: The options that ``given_bounds`` reads.
BOUND_NAMES = frozenset({"min_pixels", "max_pixels", "size"})
#: As far as ``mm_processor_kwargs`` may have a small image enlarged: 8192 × 8192.
LARGEST_MIN_PIXELS = 2**26
#: How the bounds are called inside ``size``; transformers wrote both over the years.
_SIZE_KEYS = {
    "shortest_edge": "min_pixels",
    "longest_edge": "max_pixels",
    "min_pixels": "min_pixels",
    "max_pixels": "max_pixels",
}


def checkpoint_bounds(
    section: Section, tower: QwenTowerConfig, defaults: tuple[int, int]
) -> tuple[int, int]:
    """The bounds that a checkpoint's processor gives; checks everything else in it.

    As in the published class, ``min_pixels`` and ``max_pixels`` count before ``size``.

    Args:
        section: ``preprocessor_config.json``, or the part of it that counts.
        defaults: (least, most) pixels of the published class.

    Raises:
        ConfigError: a step or a value that isn't built, by name.
    """
    for key, allowed in _BUILT_STEPS.items():
        section.require(key, *allowed)
    section.require("patch_size", tower.patch_size)
    section.require("temporal_patch_size", tower.temporal_patch_size)
    section.require("merge_size", tower.merge_size)
    bounds = dict(zip(("min_pixels", "max_pixels"), defaults, strict=True))
    size = section.sub("size")
    for key, name in _SIZE_KEYS.items():
        bounds[name] = size.integer(key, bounds[name])
    for name in bounds:
        bounds[name] = section.integer(name, bounds[name])
    if bounds["min_pixels"] > bounds["max_pixels"]:
        raise ConfigError(
            f"{section.name}: min_pixels is {bounds['min_pixels']} and max_pixels "
            f"{bounds['max_pixels']}; the first may not be above the second."
        )
    return bounds["min_pixels"], bounds["max_pixels"]


def resolved_bounds(kwargs: Mapping[str, Any], defaults: tuple[int, int]) -> dict[str, int]:
    """The bounds in ``mm_processor_kwargs``, or else the checkpoint's.

    Raises:
        RequestError: a bound of the wrong type, given twice, or out of order; or a least area
            beyond ``LARGEST_MIN_PIXELS``, to which every image would be enlarged.
    """
    given = _given_bounds(kwargs)
    smallest = given.get("min_pixels", defaults[0])
    largest = given.get("max_pixels", defaults[1])
    if smallest > largest:
        raise RequestError(
            f"min_pixels is {smallest} and max_pixels {largest}; "
            "the first may not be above the second."
        )
    if given.get("min_pixels", 0) > LARGEST_MIN_PIXELS:
        raise RequestError(
            f"min_pixels is {smallest}; images are enlarged to {LARGEST_MIN_PIXELS} at most."
        )
    return {"min_pixels": smallest, "max_pixels": largest}


def _given_bounds(kwargs: Mapping[str, Any]) -> dict[str, int]:
    """The bounds in ``mm_processor_kwargs``, whichever way they are spelt.

    Raises:
        RequestError: a wrong type, an unknown key of ``size``, or one bound with two values.
    """
    size = kwargs.get("size")
    if size is None:
        size = {}
    if not isinstance(size, Mapping) or any(key not in _SIZE_KEYS for key in size):
        raise RequestError(
            f"size is {size!r}; it must be a mapping with shortest_edge and longest_edge."
        )
    bounds: dict[str, int] = {}
    named = [(key, _SIZE_KEYS[key], value) for key, value in size.items()]
    named += [(name, name, kwargs.get(name)) for name in ("min_pixels", "max_pixels")]
    for key, name, value in named:
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise RequestError(f"{key} is {value!r}; it must be an integer of at least 1.")
        if bounds.setdefault(name, value) != value:
            raise RequestError(
                f"{name} is given as {bounds[name]} and, in another spelling, as {value}; "
                "give it once."
            )
    return bounds
