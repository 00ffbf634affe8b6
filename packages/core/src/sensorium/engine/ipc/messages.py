"""What crosses between the frontend's process and the engine's, as bytes and back.

    to the engine     hello · setup · segment · drop · compile · add · abort · call · close
    from the engine   log · ready · failed · updates · result · released · died

A message is a pickled tuple, its kind first. Unpickling can run code of the sender's choice, which
is safe here: the only sender is the process at the other end of an unnamed pair of sockets, which
started this one or was started by it, with the same rights (see ``channel``).

Updates are the most frequent message: they cross as one column for each field, without the fields
that have their default in all of them.
"""

from __future__ import annotations

import pickle
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Any

from sensorium.engine.ipc.setup import Setup
from sensorium.errors import ConfigError, EngineError, named_error
from sensorium.types import EngineItem, EngineRequest, Features, RequestUpdate

Message = tuple[Any, ...]

#: Marks a field without a default; equal to nothing.
_NO_DEFAULT = object()
_DEFAULTS = tuple(
    RequestUpdate._field_defaults.get(name, _NO_DEFAULT) for name in RequestUpdate._fields
)


class MessageError(Exception):
    """The bytes are not a message."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The location of an item's features.

    Attributes:
        segment: the segment's number; None: they have no bytes.
        header: what the segment holds, as ``PackedHeader.to_bytes`` wrote it.
    """

    segment: int | None
    header: bytes


def encode(*message: Any) -> bytes:
    """A message's bytes; its first part is its kind."""
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL)


def decode(payload: bytes) -> Message:
    """The message.

    Raises:
        MessageError: these bytes are none.
    """
    try:
        message = pickle.loads(payload)
    except Exception as error:
        raise MessageError(f"a message can't be read ({type(error).__name__}: {error})") from error
    if not isinstance(message, tuple) or not message or not isinstance(message[0], str):
        raise MessageError("a message doesn't begin with its kind")
    return message


def encode_setup(log_level: int, setup: Setup) -> bytes:
    """The message "setup".

    Raises:
        ConfigError: an option's value can't be sent to another process.
    """
    try:
        return encode("setup", log_level, setup)
    except Exception as error:
        raise ConfigError(
            "An option can't be sent to the engine's process "
            f"({type(error).__name__}: {error}); pass engine_process=False, or plain values."
        ) from error


# --- updates ----------------------------------------------------------------------------


def encode_updates(updates: Sequence[RequestUpdate]) -> bytes:
    """The message "updates"; there must be one at least."""
    count = len(updates)
    columns = tuple(
        None if column.count(default) == count else column
        for column, default in zip(zip(*updates, strict=True), _DEFAULTS, strict=True)
    )
    return encode("updates", columns)


def updates_of(columns: Sequence[Sequence[Any] | None]) -> list[RequestUpdate]:
    """The updates that a message "updates" brings."""
    filled = (
        repeat(default) if column is None else column
        for column, default in zip(columns, _DEFAULTS, strict=True)
    )
    # The first column is the requests' ids, which are always there; it ends the rest.
    return list(map(RequestUpdate._make, zip(*filled, strict=False)))


# --- requests ---------------------------------------------------------------------------


def encode_add(
    call_id: int, request: EngineRequest, placements: Sequence[Placement | None]
) -> bytes:
    """The message "add": a request whose items' features lie in segments.

    Args:
        placements: for each item where; None: it has no features.
    """
    items = tuple(replace(item, features={}) for item in request.items)
    bare = replace(request, token_ids=(), items=items)
    tokens = array("I", request.token_ids).tobytes()
    return encode("add", call_id, bare, tokens, tuple(placements))


def request_of(
    bare: EngineRequest,
    tokens: bytes,
    placements: Sequence[Placement | None],
    features_at: Callable[[Placement], Mapping[str, Features]],
) -> EngineRequest:
    """The request that a message "add" brings.

    Args:
        features_at: reads a segment.
    """
    token_ids = array("I")
    token_ids.frombytes(tokens)

    def whole(item: EngineItem, placement: Placement | None) -> EngineItem:
        return item if placement is None else replace(item, features=features_at(placement))

    items = tuple(map(whole, bare.items, placements))
    return replace(bare, token_ids=tuple(token_ids), items=items)


# --- errors -----------------------------------------------------------------------------


def pack_error(error: BaseException) -> tuple[str, str, bool]:
    """Class, sentence, and whether it is retryable."""
    return type(error).__name__, str(error), bool(getattr(error, "retryable", False))


def unpack_error(name: str, sentence: str, retryable: bool) -> Exception:
    """The same error, if it is one of ours or a broken assertion; else an ``EngineError``."""
    if name == AssertionError.__name__:
        return AssertionError(sentence)
    found = named_error(name, sentence, retryable=retryable)
    if found is not None:
        return found
    return EngineError(f"The engine's process failed ({name}); its log has the cause.")
