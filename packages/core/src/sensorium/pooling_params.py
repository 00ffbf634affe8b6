"""``PoolingParams``: how a prompt becomes one vector, per request."""

from __future__ import annotations

from dataclasses import dataclass

from sensorium.errors import RequestError, UnsupportedError

#: Ways of pooling that other engines have and this one doesn't.
_UNBUILT = ("MEAN", "CLS", "ALL", "STEP")


@dataclass(frozen=True, slots=True)
class PoolingParams:
    """What one request to embed asks for.

    Args:
        pooling_type: "LAST" (or "last"): the last token's hidden state, behind the model's last
            norm. "MEAN", "CLS" and others are refused by name.
        normalize: divide the vector by its length. None: ``embed`` does as the model's family
            says (which is yes unless it says otherwise), ``encode`` doesn't.

    Raises:
        UnsupportedError: a way of pooling that isn't built.
        RequestError: a value of another type, or an unknown way of pooling.
    """

    pooling_type: str = "LAST"
    normalize: bool | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.pooling_type, str):
            raise RequestError(f"pooling_type is {self.pooling_type!r}; it must be a string.")
        name = self.pooling_type.upper()
        if name in _UNBUILT:
            raise UnsupportedError(
                f"pooling_type is {self.pooling_type!r}, which isn't built; LAST is."
            )
        if name != "LAST":
            raise RequestError(f"pooling_type is {self.pooling_type!r}; allowed is LAST.")
        object.__setattr__(self, "pooling_type", name)
        if self.normalize is not None and not isinstance(self.normalize, bool):
            raise RequestError(
                f"normalize is {self.normalize!r}; allowed are True, False and None."
            )
