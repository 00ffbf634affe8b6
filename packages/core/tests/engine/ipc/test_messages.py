"""Messages are what they were on the other side."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensorium.engine.ipc import messages
from sensorium.engine.ipc.messages import MessageError, Placement
from sensorium.errors import CacheMissError, EngineError, LimitError
from sensorium.sampling_params import SamplingParams
from sensorium.types import (
    EngineItem,
    EngineRequest,
    MediaSpan,
    RequestUpdate,
    TokenLogprobs,
)

logprobs = st.builds(
    TokenLogprobs,
    st.floats(-9, 0),
    st.integers(1, 9),
    st.tuples(st.integers(0, 9)),
    st.tuples(st.floats(-9, 0)),
)
updates = st.builds(
    RequestUpdate,
    request_id=st.text(max_size=4),
    new_token_ids=st.lists(st.integers(0, 2**31), max_size=2).map(tuple),
    logprobs=st.lists(logprobs, max_size=1).map(tuple),
    prompt_logprobs=st.lists(st.tuples(st.integers(0, 9), logprobs), max_size=2).map(tuple),
    pooled=st.none() | st.tuples(st.floats(-9, 9)),
    finish_reason=st.sampled_from([None, "stop", "length", "abort", "error"]),
    stop_id=st.none() | st.integers(0, 9),
    error=st.none() | st.text(max_size=4),
    lost_item=st.booleans(),
    num_cached_tokens=st.integers(0, 3),
    num_encoded_items=st.integers(0, 1),
    num_encoder_hits=st.integers(0, 1),
    num_preemptions=st.integers(0, 1),
    first_scheduled_s=st.none() | st.floats(0, 9),
)


@given(st.lists(updates, min_size=1, max_size=5))
def test_updates_come_as_they_were(given_updates: list[RequestUpdate]) -> None:
    kind, columns = messages.decode(messages.encode_updates(given_updates))
    assert kind == "updates"
    assert messages.updates_of(columns) == given_updates


def test_what_says_nothing_does_not_cross() -> None:
    plain = [RequestUpdate(f"request-{i}", (i,)) for i in range(64)]
    _, columns = messages.decode(messages.encode_updates(plain))
    assert sum(column is not None for column in columns) == 2
    assert len(messages.encode_updates(plain)) < 64 * 25


def request() -> EngineRequest:
    return EngineRequest(
        request_id="r",
        token_ids=tuple(range(5000)),
        sampling=SamplingParams(stop=["x"], logit_bias={3: 1.0}, seed=4),
        max_tokens=7,
        stop_ids=frozenset({1, 2}),
        spans=(MediaSpan(0, (0, 3), 2, 3, b"\1\1\1"),),
        items=(
            EngineItem(b"k" * 32, "scent", 3, 12, {"nose": {}}, 1, "name"),
            EngineItem(b"l" * 32, "scent", 3, 12, {}),
        ),
        positions=np.arange(15).reshape(3, 5),
        salt="s",
        bad_word_ids=((1, 2),),
        arrival_s=1.5,
    )


def test_a_request_comes_as_it_was() -> None:
    sent = request()
    place = Placement(3, b"header")
    kind, call_id, *rest = messages.decode(messages.encode_add(9, sent, [place, None]))
    assert (kind, call_id) == ("add", 9)
    seen: list[Placement] = []

    def features_at(placement: Placement) -> Any:
        seen.append(placement)
        return sent.items[0].features

    received = messages.request_of(*rest, features_at)
    assert seen == [place]
    assert sent.positions is not None
    assert received.positions is not None
    assert (received.positions == sent.positions).all()
    for name in EngineRequest.__slots__:
        if name != "positions":
            assert getattr(received, name) == getattr(sent, name), name


@pytest.mark.parametrize(
    "error", [LimitError("too long"), CacheMissError("gone", retryable=True), EngineError("bad")]
)
def test_our_errors_come_as_they_were(error: Exception) -> None:
    received = messages.unpack_error(*messages.pack_error(error))
    assert type(received) is type(error)
    assert str(received) == str(error)
    assert getattr(received, "retryable", None) == getattr(error, "retryable", None)


def test_other_errors_do_not_tell_their_text() -> None:
    received = messages.unpack_error(*messages.pack_error(OSError("/a/secret")))
    assert type(received) is EngineError
    assert "secret" not in str(received)
    assert "OSError" in str(received)
    # A name that is no error of ours, though the module has it.
    assert type(messages.unpack_error("annotations", "x", False)) is EngineError
    assert type(messages.unpack_error("AssertionError", "pages", False)) is AssertionError


@pytest.mark.parametrize("payload", [b"", b"\xff\xfe", b"garbage", messages.pickle.dumps(5)])
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(MessageError):
        messages.decode(payload)
