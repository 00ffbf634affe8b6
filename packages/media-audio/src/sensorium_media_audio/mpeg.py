"""The frames of MP3 and of AAC in ADTS: each says how long it is, so that a cut shows.

Sources of the layouts: ISO/IEC 11172-3 2.4.1.3 and 13818-3 (MP3 headers), the Xing/Info header as
LAME writes it, ISO/IEC 13818-7 6.2 (ADTS), ID3v2.4 3.1.
"""

from __future__ import annotations

from dataclasses import dataclass

# Kilobits a second by the index in a layer III header: MPEG 1, then MPEG 2 and 2.5.
_KBITS = (
    (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
_RATES = {0b11: (44100, 48000, 32000), 0b10: (22050, 24000, 16000), 0b00: (11025, 12000, 8000)}
_ADTS_RATES = 13
# Frames that an encoder may have added at both ends, where it doesn't say how many samples.
_MOST_PADDING_FRAMES = 4


@dataclass(frozen=True, slots=True)
class Frames:
    """What a walk from frame to frame found.

    Attributes:
        announced: samples of one channel that the frames, or the Xing header, promise; None: the
            walk met something that is no frame and no tag, and the file has no Xing header.
        is_cut: the last frame, or the last ones, are missing.
    """

    announced: int | None
    is_cut: bool


@dataclass(frozen=True, slots=True)
class _Mp3Header:
    num_bytes: int
    num_samples: int
    xing_at: int


def id3_end(data: bytes) -> int:
    """Where the file begins behind its ID3v2 tag; 0 without one."""
    if not data.startswith(b"ID3") or len(data) < 10:
        return 0
    a, b, c, d = (byte & 0x7F for byte in data[6:10])
    footer = 10 if data[5] & 0x10 else 0
    end = 10 + (a << 21 | b << 14 | c << 7 | d) + footer
    while end < len(data) and data[end] == 0 and end < 2**16:  # padding that isn't counted
        end += 1
    return end


def is_mp3(data: bytes, start: int) -> bool:
    """Whether an MP3 frame stands there, and another one, or the end, behind it."""
    header = _mp3_header(data, start)
    if header is None:
        return False
    behind = start + header.num_bytes
    return behind >= len(data) or _is_tag(data, behind) or _mp3_header(data, behind) is not None


def is_adts(data: bytes, start: int) -> bool:
    """Whether an ADTS frame stands there, and another one, or the end, behind it."""
    length = _adts_length(data, start)
    if length is None:
        return False
    behind = start + length
    return behind >= len(data) or _adts_length(data, behind) is not None


def mp3_frames(data: bytes, start: int) -> Frames:
    """Walks through an MP3."""
    first = _mp3_header(data, start)
    assert first is not None, "is_mp3 was asked before"
    promised, padding = _xing(data, start + first.xing_at)
    at, count, is_cut = start + (first.num_bytes if promised else 0), 0, False
    while at < len(data) and (header := _mp3_header(data, at)) is not None:
        at += header.num_bytes
        is_cut = at > len(data)
        count += not is_cut
    walked_through = at >= len(data) or _is_tag(data, at)
    if promised:
        is_cut = is_cut or (walked_through and count < promised)
        if padding is None:
            padding = _MOST_PADDING_FRAMES * first.num_samples
        return Frames(max(0, promised * first.num_samples - padding), is_cut)
    return Frames(count * first.num_samples if walked_through else None, is_cut)


def adts_is_cut(data: bytes, start: int) -> bool:
    """Whether the last ADTS frame is incomplete."""
    at = start
    while at < len(data) and (length := _adts_length(data, at)) is not None:
        at += length
    return at > len(data) or 0 < len(data) - at < 7


def _mp3_header(data: bytes, at: int) -> _Mp3Header | None:
    if at + 4 > len(data) or data[at] != 0xFF or data[at + 1] & 0xE6 != 0xE2:  # layer III
        return None
    version = data[at + 1] >> 3 & 3
    bits, rate = data[at + 2] >> 4, data[at + 2] >> 2 & 3
    if version not in _RATES or bits in (0, 15) or rate == 3:
        return None
    is_first = version == 0b11
    kbits = _KBITS[0 if is_first else 1][bits - 1]
    padding = data[at + 2] >> 1 & 1
    num_bytes = (144_000 if is_first else 72_000) * kbits // _RATES[version][rate] + padding
    is_mono = data[at + 3] >> 6 == 3
    side = (17 if is_mono else 32) if is_first else (9 if is_mono else 17)
    return _Mp3Header(num_bytes, 1152 if is_first else 576, 4 + side)


def _xing(data: bytes, at: int) -> tuple[int, int | None]:
    """What a Xing or Info header states: frames (0 without one), and samples that are padding."""
    if data[at : at + 4] not in (b"Xing", b"Info") or at + 12 > len(data):
        return 0, None
    flags = data[at + 7]
    lame = at + 8 + sum(size for bit, size in enumerate((4, 4, 100, 4)) if flags >> bit & 1)
    frames = int.from_bytes(data[at + 8 : at + 12], "big") if flags & 1 else 0
    if data[lame : lame + 1] != b"L" or lame + 24 > len(data):  # LAME, Lavc, Lavf and L3.99
        return frames, None
    paddings = int.from_bytes(data[lame + 21 : lame + 24], "big")
    return frames, (paddings >> 12) + (paddings & 0xFFF)


def _adts_length(data: bytes, at: int) -> int | None:
    if at + 7 > len(data) or data[at] != 0xFF or data[at + 1] & 0xF6 != 0xF0:
        return None
    length = (data[at + 3] & 3) << 11 | data[at + 4] << 3 | data[at + 5] >> 5
    return length if length >= 7 and (data[at + 2] >> 2 & 15) < _ADTS_RATES else None


def _is_tag(data: bytes, at: int) -> bool:
    return data.startswith((b"TAG", b"APETAGEX", b"LYRICS"), at)
