"""Text that comes token by token is the text that comes at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from sensorium.tokenizer import Tokenizer, make_detokenizer
from sensorium.tokenizer.windows import WindowDetokenizer

TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["the fox", " ", "é", "🎈", "👨‍👩‍👧", "日本語", "\n"]), st.text(max_size=5)
    ),
    max_size=8,
).map("".join)


def pushed(
    tokenizer: Any,
    ids: Sequence[int],
    size: int = 1,
    skip: bool = False,
    prompt: Sequence[int] = (),
    make: Any = make_detokenizer,
) -> list[str]:
    detokenizer = make(
        tokenizer,
        skip_special_tokens=skip,
        spaces_between_special_tokens=True,
        prompt_token_ids=prompt,
    )
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


def added(oracle: Any, prompt: Sequence[int], ids: Sequence[int], skip: bool) -> str:
    """What ``ids`` add to the prompt's text; a character that it ends within is theirs."""
    whole = oracle.decode([*prompt, *ids], skip_special_tokens=skip)
    for num_incomplete in range(4):
        begin = list(prompt[: len(prompt) - num_incomplete])
        before = oracle.decode(begin, skip_special_tokens=skip)
        if whole.startswith(before):
            break
    assert whole.startswith(before)
    return str(whole[len(before) :])


BOTH = st.sampled_from([make_detokenizer, WindowDetokenizer])


@settings(deadline=None, max_examples=250)
@given(data=st.data(), skip=st.booleans(), size=st.sampled_from([1, 2, 5, 100]), make=BOTH)
def test_any_ids_of_a_byte_level_vocabulary(
    qwen: Any, data: st.DataObject, skip: bool, size: int, make: Any
) -> None:
    """Bytes that make no character included, wherever the prompt ends."""
    known = st.integers(0, qwen.ours.vocab_size - 1)
    ids = data.draw(st.lists(known, max_size=40))
    end = data.draw(st.integers(0, len(ids)))
    text = "".join(pushed(qwen.ours, ids[end:], size, skip, ids[:end], make))
    assert text == added(qwen.oracle, ids[:end], ids[end:], skip)


def test_added_tokens_of_a_byte_level_vocabulary(tmp_path: Path) -> None:
    """Their text is their entry, whether or not all of its characters stand for bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(["<a b>", "日本", "<Ġé>", "Ã"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    ids = list(range(tokenizer.vocab_size))
    for first in ids:
        for pair in ([first], [*ids[-4:], first], [first, *ids[-4:]]):
            assert "".join(pushed(tokenizer, pair)) == backend.decode(pair)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), skip=st.booleans(), size=st.sampled_from([1, 2, 5, 100]))
def test_words_and_byte_runs_of_a_sentencepiece_vocabulary(
    llama: Any, data: st.DataObject, skip: bool, size: int
) -> None:
    tokenizer = llama.ours
    is_byte = {i for i in range(tokenizer.vocab_size) if tokenizer.id_to_token(i).startswith("<0x")}
    word = st.sampled_from(sorted(set(range(tokenizer.vocab_size)) - is_byte)).map(lambda i: [i])
    character = st.sampled_from(["é", "🎈", "日", "\n"]).map(
        lambda c: [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in c.encode()]
    )
    units = data.draw(st.lists(st.one_of(word, character), max_size=30))
    ids = [token_id for unit in units for token_id in unit]
    end = data.draw(st.integers(0, len(ids)))
    text = "".join(pushed(tokenizer, ids[end:], size, skip, ids[:end]))
    assert text == added(llama.oracle, ids[:end], ids[end:], skip)


@settings(deadline=None)
@given(data=st.data(), size=st.sampled_from([2, 30, 100]))
def test_byte_tokens_that_make_no_character(llama: Any, data: st.DataObject, size: int) -> None:
    """What was shown stays; what comes is the same in whatever pieces it comes."""
    ids = data.draw(st.lists(st.integers(0, llama.ours.vocab_size - 1), max_size=40))
    one_by_one = "".join(pushed(llama.ours, ids))
    assert "".join(pushed(llama.ours, ids, size)) == one_by_one
    words = [token_id for token_id in ids if not 3 <= token_id < 259]
    characters = iter(one_by_one)
    assert all(c in characters for c in llama.oracle.decode(words).lstrip()), "no word is lost"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_byte_that_spoils_the_space_before_it_adds_one_character(llama: Any, size: int) -> None:
    ids = [llama.ours.token_to_id(token) for token in ("<unk>", "<0x20>", "<0x80>")]
    assert "".join(pushed(llama.ours, ids, size)) == "<unk> \ufffd"


def test_a_completion_keeps_its_first_space(llama: Any) -> None:
    prompt = llama.ours.encode("the fox", add_special_tokens=True)
    space, fox = llama.ours.token_to_id("▁"), llama.ours.encode("fox")
    assert pushed(llama.ours, [space, *fox], prompt=prompt)[0] == " "
    in_front = "".join(pushed(llama.ours, fox, prompt=prompt[:1], skip=True))
    assert in_front == "fox", "a hidden token is no text"


def test_tokens_that_follow_one_another_without_spaces(tmp_path: Path) -> None:
    """A tokenizer without a decoder puts a space between any two tokens."""
    backend = tokenizers.Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    backend.add_special_tokens(["<x>", "<y>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path)
    ids = [0, 3, 4, 3, 1, 4]
    for size in (1, 6):
        found = {}
        for spaces in (True, False):
            detokenizer = make_detokenizer(
                tokenizer, skip_special_tokens=False, spaces_between_special_tokens=spaces
            )
            pieces = [detokenizer.push(ids[i : i + size]) for i in range(0, len(ids), size)]
            found[spaces] = "".join([*pieces, detokenizer.flush()])
        assert found == {True: "a <x> <y> <x> b <y>", False: "a <x><y><x> b <y>"}


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


def test_the_cost_of_a_token_does_not_grow(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    num_decoded = []
    decode = llama.ours.decode
    monkeypatch.setattr(
        llama.ours, "decode", lambda ids: num_decoded.append(len(ids)) or decode(ids)
    )
    pushed(llama.ours, llama.ours.encode("the quick brown fox é🎈 ") * 300)
    assert max(num_decoded) < 20, "the window is as long as a few tokens, however long the text"


@settings(deadline=None, max_examples=300)
@given(data=st.data(), skip=st.booleans(), make=BOTH)
def test_many_at_once_are_the_same_as_one_by_one(
    qwen: Any, data: st.DataObject, skip: bool, make: Any
) -> None:
    """Bytes that make no character included, however long they are waited for."""
    known = st.integers(0, qwen.ours.vocab_size + 5)
    ids = data.draw(st.lists(known, max_size=150))
    size = data.draw(st.sampled_from([2, 30, 64, 150]))
    at_once = pushed(qwen.ours, ids, size, skip, make=make)
    assert "".join(at_once) == "".join(pushed(qwen.ours, ids, 1, skip, make=make))


@settings(deadline=None)
@given(text=TEXTS, size=st.sampled_from([2, 20, 100]))
def test_words_at_once_are_the_same_as_one_by_one(pair: Any, text: str, size: int) -> None:
    ids = pair.ours.encode(text.encode("utf-8", "ignore").decode() * 3)
    assert "".join(pushed(pair.ours, ids, size)) == "".join(pushed(pair.ours, ids))
