"""What is asked of pooling: it works, or it is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from sensorium import PoolingParams, RequestError, UnsupportedError


def test_the_last_token_in_any_case() -> None:
    assert PoolingParams() == PoolingParams(pooling_type="last") == PoolingParams("LAST")
    assert PoolingParams().normalize is None


@pytest.mark.parametrize("name", ["MEAN", "mean", "CLS", "ALL", "STEP"])
def test_what_is_not_built_is_named(name: str) -> None:
    with pytest.raises(UnsupportedError, match=f"pooling_type is '{name}', which isn't built"):
        PoolingParams(name)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pooling_type": "first"}, "pooling_type is 'first'; allowed is LAST"),
        ({"pooling_type": None}, "pooling_type is None; it must be a string"),
        ({"normalize": 1}, "normalize is 1; allowed are True, False and None"),
    ],
)
def test_what_makes_no_sense_gets_a_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RequestError, match=sentence):
        PoolingParams(**fields)
