"""``check_options``: what is allowed passes as it is used, everything else gets a sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sensorium.errors import ConfigError
from sensorium.plugins.options import as_integer, check_options, integer, positive_number

CHECKS = {"count": integer(1, 9), "span_s": positive_number(60, "seconds")}


def check(**given: Any) -> dict[str, Any]:
    return check_options('media_io_kwargs["scent"]', given, CHECKS)


def test_values_as_they_are_used() -> None:
    assert check() == {}
    found = check(count=np.int64(9), span_s=60)
    assert found == {"count": 9, "span_s": 60.0}
    assert type(found["count"]) is int
    assert type(found["span_s"]) is float


def test_an_unknown_option_names_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        check(count=1, length=2)
    assert str(caught.value) == (
        "media_io_kwargs[\"scent\"] has 'length'; allowed are count, span_s."
    )


@pytest.mark.parametrize("value", [0, 10, True, 1.0, "1", None])
def test_integers_out_of_range(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"count is .*; it must be an integer from 1 to 9\."):
        check(count=value)


@pytest.mark.parametrize("value", [0, -1, 61, math.inf, math.nan, False, "1", None])
def test_numbers_out_of_range(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"a number of seconds above 0 and at most 60\."):
        check(span_s=value)


def test_what_is_an_integer() -> None:
    assert [as_integer(x) for x in (3, np.uint8(3), True, 3.0, "3", None)] == [3, 3] + [None] * 4
