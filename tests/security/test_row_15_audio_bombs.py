"""Row 15 (vLLM #44970): a small file of sound that becomes gigabytes is refused on the way."""

from __future__ import annotations

import io
import tracemalloc

import numpy as np
import pytest
import soundfile

from sensorium.errors import LimitError, MediaError
from sensorium.types import BytesSource
from sensorium_media_audio.kind import AudioKind

RATE = 48_000


def opus() -> bytes:
    """A minute of silence: some 100 bytes a second, of which a decoder makes 192,000."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(60 * RATE, np.float32), RATE, format="OGG", subtype="OPUS")
    return file.getvalue()


def without_length(data: bytes) -> bytes:
    """The same with every page saying that it ends at the first second, checksums and all."""
    pages = bytearray(data)
    at = 0
    while at < len(pages):
        num_segments = pages[at + 26]
        end = at + 27 + num_segments + sum(pages[at + 27 : at + 27 + num_segments])
        if int.from_bytes(pages[at + 6 : at + 14], "little") > RATE:
            pages[at + 6 : at + 14] = RATE.to_bytes(8, "little")
            pages[at + 22 : at + 26] = bytes(4)
            pages[at + 22 : at + 26] = ogg_checksum(pages[at:end]).to_bytes(4, "little")
        at = end
    return bytes(pages)


def ogg_checksum(page: bytes) -> int:
    """CRC-32 with the polynomial 0x04C11DB7, nothing reflected (RFC 3533, 6)."""
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


def refused(data: bytes, *, most_bytes: int, probe: bool) -> str:
    """The error's class; memory is watched."""
    kind = AudioKind({"max_duration_s": 5})
    tracemalloc.start()
    try:
        if probe:
            kind.probe([BytesSource(data)])
        kind.load([BytesSource(data)])
    except (LimitError, MediaError) as error:
        return type(error).__name__
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most_bytes
    return "loaded"


@pytest.mark.parametrize("probe", [True, False], ids=["header", "decoding"])
def test_a_minute_of_silence_is_more_than_five_seconds(probe: bool) -> None:
    data = opus()
    assert len(data) < 2**15
    assert refused(data, most_bytes=4 * 2**20, probe=probe) == "LimitError"


def test_a_header_that_lies_is_found_out_while_decoding() -> None:
    lying = without_length(opus())
    assert refused(lying, most_bytes=4 * 2**20, probe=True) != "loaded"


def test_many_channels_and_high_rates_count() -> None:
    file = io.BytesIO()
    soundfile.write(file, np.zeros((2**18, 8), np.int16), 384_000, format="FLAC", subtype="PCM_16")
    assert len(file.getvalue()) < 2**13
    kind = AudioKind({"max_samples": 2**20})
    with pytest.raises(LimitError, match="more than 1048576 samples"):
        kind.load([BytesSource(file.getvalue())])
