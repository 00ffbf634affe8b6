"""Text that comes token by token is the text that comes at once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensorium.tokenizer import Detokenizer

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["the fox", " ", "é", "🎈", "👨‍👩‍👧", "日本語", "\n"]), st.text(max_size=5)
    ),
    max_size=8,
).map("".join)


def pushed(tokenizer: Any, ids: list[int], size: int = 1, skip: bool = False) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip)
    texts = [detokenizer.push(ids[i : i + size]) for i in range(0, len(ids), size)]
    return [*texts, detokenizer.flush()]


@settings(deadline=None)
@given(text=TEXTS, size=st.integers(1, 4))
def test_pieces_make_the_whole(pair: Any, text: str, size: int) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = pair.ours.encode(text)
    pieces = pushed(pair.ours, ids, size)
    assert "".join(pieces) == pair.oracle.decode(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces), "half a character was shown"


@settings(deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_of_a_byte_level_vocabulary(qwen: Any, data: st.DataObject, skip: bool) -> None:
    known = st.integers(0, qwen.ours.vocab_size - 1)
    ids = data.draw(st.lists(known, max_size=7))
    whole = qwen.ours.decode(ids, skip_special_tokens=skip)
    assert "".join(pushed(qwen.ours, ids, skip=skip)) == whole


@pytest.mark.parametrize("skip", [False, True])
def test_special_tokens_between_words(pair: Any, skip: bool) -> None:
    special = "<thing>" if pair.ours.token_to_id("<thing>") is not None else "<|im_end|>"
    ids = pair.ours.encode(f"the{special}{special} fox{special} dog")
    whole = pair.oracle.decode(ids, skip_special_tokens=skip)
    assert "".join(pushed(pair.ours, ids, skip=skip)) == whole
    assert (special in whole) is not skip


def test_ids_outside_the_vocabulary_have_no_text(pair: Any) -> None:
    ids = pair.ours.encode("the fox")
    mixed = [10**6, ids[0], 10**6, *ids[1:], 10**6]
    assert "".join(pushed(pair.ours, mixed)) == "the fox"


def test_bytes_that_never_become_a_character(qwen: Any) -> None:
    lead = qwen.ours.encode("é")[0]
    pieces = pushed(qwen.ours, [lead] * 50)
    assert "".join(pieces) == "\ufffd" * 50
    assert any(pieces[:-1]), "shown while they come, not only at the end"


def test_the_cost_of_a_token_does_not_grow(qwen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    num_decoded = []
    decode = qwen.ours.decode
    monkeypatch.setattr(
        qwen.ours, "decode", lambda ids: num_decoded.append(len(ids)) or decode(ids)
    )
    pushed(qwen.ours, qwen.ours.encode("the quick brown fox é🎈 ") * 300)
    assert max(num_decoded) < 20, "the window is as long as a few tokens, however long the text"


@settings(deadline=None, max_examples=200)
@given(data=st.data(), skip=st.booleans())
def test_many_at_once_are_the_same_as_one_by_one(
    qwen: Any, data: st.DataObject, skip: bool
) -> None:
    """Bytes that make no character included, however long they are waited for."""
    known = st.integers(0, qwen.ours.vocab_size + 5)
    ids = data.draw(st.lists(known, max_size=150))
    size = data.draw(st.sampled_from([2, 30, 64, 150]))
    assert "".join(pushed(qwen.ours, ids, size, skip)) == "".join(pushed(qwen.ours, ids, 1, skip))


@settings(deadline=None)
@given(text=TEXTS, size=st.sampled_from([2, 20, 100]))
def test_words_at_once_are_the_same_as_one_by_one(pair: Any, text: str, size: int) -> None:
    ids = pair.ours.encode(text.encode("utf-8", "ignore").decode() * 3)
    assert "".join(pushed(pair.ours, ids, size)) == "".join(pushed(pair.ours, ids))
