"""``AudioKind``: what a clip of sound is, whatever the model.

A loaded clip is a float32 array (samples,), mono, full scale 1, at the rate of the options.
Adapters must not write to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from sensorium.errors import MediaError
from sensorium.media.digest import Digest
from sensorium.plugins.kind import MediaKind
from sensorium.types import (
    BytesSource,
    GivenEmbeds,
    Loaded,
    MediaItem,
    MediaShape,
    Probe,
    Source,
    ValueSource,
)
from sensorium_media_audio.arrays import Array, Clip, blocks, to_array
from sensorium_media_audio.decode import decode, decoded_bytes, probe_bytes
from sensorium_media_audio.mixdown import FloatArray, Mixdown, check_budget, check_rate
from sensorium_media_audio.options import AudioOptions
from sensorium_media_audio.sources import Entry, part_entry, split_value

#: Names of facts: samples of the loaded clip, and how many of them make a second.
LENGTH, SAMPLING_RATE = "length", "sampling_rate"


class AudioKind(MediaKind):
    """Sound. Options (``media_io_kwargs["audio"]``): see ``AudioOptions``.

    Only decoding tells how many samples a clip has at the model's rate, so the length is a fact of
    its shape, not an extent.
    """

    name: ClassVar[str] = "audio"
    part_types: ClassVar[tuple[str, ...]] = ("audio_url", "input_audio", "audio_embeds")
    fetch_timeout_s: ClassVar[float] = 10.0
    media_types: ClassVar[tuple[str, ...]] = ("audio/*",)
    fact_names: ClassVar[tuple[str, ...]] = (LENGTH, SAMPLING_RATE)

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = AudioOptions.from_mapping(options)

    def options_key(self) -> Mapping[str, str | int | float | bool | None]:
        """The rate; and the longest duration, which changes no result, for ``worst_case``."""
        return {
            SAMPLING_RATE: self._options.sampling_rate,
            "max_duration_s": self._options.max_duration_s,
        }

    def split(self, value: Any) -> list[MediaItem]:
        """Every form of ``sources``; see ``MediaKind.split``."""
        return [_item(index, entry) for index, entry in enumerate(split_value(value))]

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        """``audio_url``, ``input_audio`` and ``audio_embeds``; see ``MediaKind.parse_part``."""
        return _item(0, part_entry(part_type, value))

    def probe(self, sources: Sequence[Source]) -> Probe:
        """The rate that the clip will have; only decoding tells its length."""
        (source,) = sources
        shape = MediaShape((), {SAMPLING_RATE: self._options.sampling_rate})
        if isinstance(source, BytesSource):
            return Probe(shape, probe_bytes(source.data, self._options))
        array, rate = self._checked(source)
        channels = array.shape[1] if array.ndim == 2 else 1
        return Probe(shape, decoded_bytes(len(array), rate, channels, self._options))

    def load(self, sources: Sequence[Source]) -> Loaded:
        """Decodes to mono float32 (samples,) at the options' rate."""
        (source,) = sources
        if isinstance(source, BytesSource):
            return self._loaded(decode(source.data, self._options))
        array, rate = self._checked(source)
        mixdown = Mixdown(rate, self._options)
        for block in blocks(array):
            mixdown.take(block)
        return self._loaded(mixdown.finish())

    def digest(self, sources: Sequence[Source]) -> bytes:
        """Of encoded bytes, or of an array's numbers, type, shape and rate."""
        (source,) = sources
        digest = Digest("sensorium audio")
        if isinstance(source, BytesSource):
            return digest.add("bytes").add(source.data).digest()
        array, rate = self._checked(source)
        return digest.add("array").add(rate).add(array).digest()

    def blank(self, shape: MediaShape) -> Loaded:
        """Silence of this length."""
        length = shape.facts[LENGTH]
        assert isinstance(length, int)
        return Loaded(np.zeros(length, dtype=np.float32), shape)

    def _checked(self, source: Source) -> tuple[Array, int]:
        """The samples (frames,) or (frames, channels), within the budgets, and their rate."""
        assert isinstance(source, ValueSource), "URLs and files were fetched before"
        clip = source.value
        if not isinstance(clip, Clip):
            raise MediaError(f"it is a {type(clip).__name__}, which is no form of audio.")
        rate = self._options.sampling_rate if clip.rate is None else clip.rate
        check_rate(rate)
        if isinstance(clip.samples, (list, tuple)):  # counted before they are copied
            check_budget(len(clip.samples), len(clip.samples), rate, self._options)
        array = to_array(clip.samples)
        check_budget(len(array), array.size, rate, self._options)
        return array, rate

    def _loaded(self, samples: FloatArray) -> Loaded:
        facts = {LENGTH: len(samples), SAMPLING_RATE: self._options.sampling_rate}
        return Loaded(samples, MediaShape((), facts))


def _item(index: int, entry: Entry) -> MediaItem:
    if isinstance(entry, GivenEmbeds):
        return MediaItem("audio", index, embeds=entry)
    return MediaItem("audio", index, () if entry is None else (entry,))
