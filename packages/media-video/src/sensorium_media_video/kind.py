"""``VideoKind``: what a clip is, whatever the model. Its loaded value is a ``Clip``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

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
from sensorium_media_video.clip import BlankClip, Clip
from sensorium_media_video.encoded import open_encoded
from sensorium_media_video.facts import FACT_NAMES, SIZE_NAMES, ClipFacts
from sensorium_media_video.frames import FrameClip, GivenClip, ListClip, check_count, open_frames
from sensorium_media_video.metadata import ClipMetadata
from sensorium_media_video.options import VideoOptions
from sensorium_media_video.sources import Entry, part_entry, split_value


class VideoKind(MediaKind):
    """Clips. Options (``media_io_kwargs["video"]``): see ``VideoOptions``."""

    name: ClassVar[str] = "video"
    part_types: ClassVar[tuple[str, ...]] = ("video_url", "video", "video_embeds")
    offline_part_types: ClassVar[tuple[str, ...]] = ("video",)
    fetch_timeout_s: ClassVar[float] = 30.0
    media_types: ClassVar[tuple[str, ...]] = ("video/*", "image/gif", "image/webp", "image/apng")
    size_names: ClassVar[tuple[str, ...]] = SIZE_NAMES
    fact_names: ClassVar[tuple[str, ...]] = FACT_NAMES

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = VideoOptions.from_mapping(options)

    def options_key(self) -> Mapping[str, str | int | float | bool | None]:
        """What the families' rules choose frames by, and who decodes; budgets change no result."""
        options = self._options
        return {"num_frames": options.num_frames, "fps": options.fps, "reader": options.reader}

    def split(self, value: Any) -> list[MediaItem]:
        """Every form of ``sources``; see ``MediaKind.split``."""
        return [
            _item(index, entry) for index, entry in enumerate(split_value(value, self._options))
        ]

    def parse_part(self, part_type: str, value: Any) -> MediaItem:
        """``video_url``, ``video`` and ``video_embeds``; see ``MediaKind.parse_part``."""
        return _item(0, part_entry(part_type, value, self._options))

    def probe(self, sources: Sequence[Source]) -> Probe:
        """Frames, size, rate and times, from headers and shapes."""
        if isinstance(sources[0], BytesSource) and len(sources) == 1:
            clip, facts, decoded_bytes = open_encoded(sources[0].data, self._options)
            clip.close()
            return Probe(self._shape(facts), decoded_bytes)
        frames, metadata = self._frames(sources)
        return Probe(self._shape(_facts(frames, metadata)), frames.decoded_bytes)

    def load(self, sources: Sequence[Source]) -> Loaded:
        """Opens the clip; frames are decoded as an adapter asks for them."""
        clip: Clip
        if isinstance(sources[0], BytesSource) and len(sources) == 1:
            clip, facts, _ = open_encoded(sources[0].data, self._options)
        else:
            frames, metadata = self._frames(sources)
            clip, facts = frames, _facts(frames, metadata)
        return Loaded(clip, self._shape(facts))

    def digest(self, sources: Sequence[Source]) -> bytes:
        """Encoded bytes as they are; of frames their content, and what their metadata mean."""
        digest = Digest("sensorium video")
        if isinstance(sources[0], BytesSource):
            digest.add("bytes").add(len(sources))
            for source in sources:
                assert isinstance(source, BytesSource)
                digest.add(source.data)
            return digest.digest()
        frames, metadata = self._frames(sources)
        frames.add_to(digest)
        facts = _facts(frames, metadata)
        return digest.add([facts.fps, facts.duration, facts.times, facts.sampled]).digest()

    def limited(self, shape: MediaShape, limits: Mapping[str, int | float]) -> MediaShape:
        """The worst case with these limits; its duration follows from its frames."""
        facts = ClipFacts.of(MediaKind.limited(self, shape, limits))
        duration = facts.num_frames / facts.fps if facts.fps else 0.0
        return replace(facts, duration=limits.get("duration", duration), times=()).shape

    def blank(self, shape: MediaShape) -> Loaded:
        """A black clip."""
        return Loaded(BlankClip(*shape.size), shape)

    def _shape(self, facts: ClipFacts) -> MediaShape:
        if facts.sampled:  # the options are for what is yet to be sampled
            return facts.shape
        options = self._options
        return replace(facts, wanted_frames=options.num_frames, wanted_fps=options.fps).shape

    def _frames(self, sources: Sequence[Source]) -> tuple[FrameClip, ClipMetadata | None]:
        if isinstance(sources[0], BytesSource):
            check_count(len(sources), self._options)
            encoded = [source.data for source in sources if isinstance(source, BytesSource)]
            return ListClip(encoded, self._options), None
        (source,) = sources
        assert isinstance(source, ValueSource), "URLs and files were fetched before"
        if not isinstance(source.value, GivenClip):
            raise MediaError(f"it is a {type(source.value).__name__}, which is no form of video.")
        return open_frames(source.value, self._options)


def _facts(clip: FrameClip, metadata: ClipMetadata | None) -> ClipFacts:
    """Without metadata the frames count as sampled, at a rate that nobody knows."""
    facts = ClipFacts(clip.num_frames, clip.height, clip.width, sampled=True)
    if metadata is None:
        return facts
    return replace(
        facts,
        fps=metadata.rate(clip.num_frames),
        duration=metadata.seconds(clip.num_frames),
        times=metadata.times(),
        sampled=metadata.sampled,
    )


def _item(index: int, entry: Entry) -> MediaItem:
    if isinstance(entry, GivenEmbeds):
        return MediaItem("video", index, embeds=entry)
    return MediaItem("video", index, entry)
