"""Row 6 (CVE-2025-46722): no two images may share a digest; shape and mode count."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from sensorium.types import BytesSource, ValueSource
from sensorium_media_image.kind import ImageKind

KIND = ImageKind({})
#: Pillow's modes by bytes a pixel; two of a line hold the same bytes and show other pictures.
MODES = {1: ("L", "P", "1"), 2: ("LA", "I;16"), 3: ("RGB", "YCbCr", "HSV"), 4: ("RGBA", "CMYK")}


def digest(value: object) -> bytes:
    source = BytesSource(value) if isinstance(value, bytes) else ValueSource(value)
    return KIND.digest([source])


def arrays() -> st.SearchStrategy[npt.NDArray[Any]]:
    """Small pictures of few values, so that pairs with the same bytes turn up often."""
    sides = st.integers(1, 4)
    shapes = st.tuples(sides, sides, st.sampled_from([1, 3, 4])) | st.tuples(
        st.sampled_from([1, 3, 4]), sides, sides.filter(lambda side: side not in (1, 3, 4))
    )
    dtypes = st.sampled_from([np.uint8, np.int8, np.bool_, np.uint16, np.float32])
    return st.tuples(dtypes, shapes).flatmap(
        lambda made: hnp.arrays(made[0], made[1], elements=st.sampled_from([0, 1]), fill=st.just(0))
    )


@settings(deadline=None)
@given(arrays(), arrays())
def test_different_arrays_never_share(left: npt.NDArray[Any], right: npt.NDArray[Any]) -> None:
    same = left.dtype == right.dtype and left.shape == right.shape and bool((left == right).all())
    assert (digest(left) == digest(right)) == same


@st.composite
def pictures(draw: st.DrawFn) -> Image.Image:
    """Pillow images made of the same few bytes in different modes, sizes and palettes."""
    data = draw(st.sampled_from([bytes(12), bytes(range(12))]))
    channels = draw(st.sampled_from([1, 2, 3, 4]))
    mode = draw(st.sampled_from(MODES[channels]))
    pixels = len(data) // channels
    width = draw(st.sampled_from([side for side in (1, 2, 3, 4, 6, 12) if pixels % side == 0]))
    size = (width, pixels // width)
    if mode == "1":
        return Image.frombytes("L", size, data).convert("1")
    picture = Image.frombytes(mode, size, data)
    if mode == "P":
        picture.putpalette(draw(st.sampled_from([bytes(range(36)), bytes(36)])))
    if draw(st.booleans()):
        picture.info["transparency"] = draw(st.sampled_from([0, 1]))
    if draw(st.booleans()):
        picture.getexif()[0x0112] = draw(st.sampled_from([3, 6]))
    return picture


def identity(picture: Image.Image) -> tuple[Any, ...]:
    return (
        picture.mode,
        picture.size,
        tuple(picture.getpalette() or ()),
        picture.info.get("transparency"),
        picture.getexif().get(0x0112, 1),
        picture.tobytes(),
    )


@settings(deadline=None)
@given(pictures(), pictures())
def test_different_pillow_images_never_share(left: Image.Image, right: Image.Image) -> None:
    assert (digest(left) == digest(right)) == (identity(left) == identity(right))


@settings(deadline=None)
@given(pictures(), arrays(), st.binary(max_size=16))
def test_forms_never_meet(picture: Image.Image, array: npt.NDArray[Any], data: bytes) -> None:
    digests = [digest(picture), digest(array), digest(data), digest(array.tobytes())]
    assert all(a != b for a, b in itertools.combinations(digests[:3], 2))
    assert digests[3] not in digests[:2]


def test_the_published_collision() -> None:
    """The same bytes as 30×100 and 100×30, and the same indices under two palettes."""
    data = np.arange(9000, dtype=np.uint16).astype(np.uint8).tobytes()
    wide, high = Image.frombytes("RGB", (100, 30), data), Image.frombytes("RGB", (30, 100), data)
    assert wide.tobytes() == high.tobytes()
    assert digest(wide) != digest(high)
    assert digest(np.asarray(wide)) != digest(np.asarray(high))
    one, other = Image.new("P", (4, 4)), Image.new("P", (4, 4))
    one.putpalette([255, 0, 0])
    other.putpalette([0, 255, 0])
    assert one.tobytes() == other.tobytes()
    assert digest(one) != digest(other)
