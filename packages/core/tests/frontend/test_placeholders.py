"""Placeholders in text and ids become slots, and their count must match."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sensorium.errors import RequestError
from sensorium.frontend.placeholders import (
    LiteralSegment,
    SlotSegment,
    TextSegment,
    tokenize_prompt,
    tokenize_segments,
)
from sensorium.frontend.prompt_ids import tokenized_ids
from sensorium.plugins import MediaAdapter, Slot, TokenizedPrompt
from sensorium.tokenizer import Tokenizer

PAD = "<|thing_pad|>"


def without_slots(tokenizer: Tokenizer, prompt: TokenizedPrompt) -> list[str]:
    """The texts between the slots."""
    texts, copied = [], 0
    for slot in prompt.slots:
        texts.append(tokenizer.decode(prompt.token_ids[copied : slot.offset]))
        copied = slot.offset + slot.length
    return [*texts, tokenizer.decode(prompt.token_ids[copied:])]


def test_a_text_without_placeholders_is_just_tokenized(qwen: Tokenizer, llama: Tokenizer) -> None:
    for tokenizer in (qwen, llama):
        prompt = tokenize_prompt(tokenizer, {}, {}, text="The <thing> fox")
        assert list(prompt.token_ids) == tokenizer.encode(
            "The <thing> fox", add_special_tokens=True
        )
        assert prompt.slots == ()
        bare = tokenize_prompt(tokenizer, {}, {}, text="The fox", add_special_tokens=False)
        assert list(bare.token_ids) == tokenizer.encode("The fox")


def test_a_token_of_the_vocabulary_leaves_the_ids_alone(qwen: Tokenizer, thing: Any) -> None:
    text = f"Look: {PAD}{PAD} and\n{PAD}!"
    prompt = tokenize_prompt(qwen, {"thing": thing}, {"thing": 3}, text=text)
    assert list(prompt.token_ids) == qwen.encode(text)
    pad = qwen.token_to_id(PAD)
    places = [i for i, token_id in enumerate(prompt.token_ids) if token_id == pad]
    assert prompt.slots == tuple(Slot("thing", i, place, 1) for i, place in enumerate(places))


def test_bos_stands_in_front_once(llama: Tokenizer, make: Any) -> None:
    thing = make("thing", "<thing>", (420,))
    text = "USER: <thing>\nWhat?"
    prompt = tokenize_prompt(llama, {"thing": thing}, {"thing": 1}, text=text)
    assert list(prompt.token_ids) == llama.encode(text, add_special_tokens=True)
    assert prompt.slots[0].length == 1
    note = make("thing", "[[x]]")
    cut = tokenize_prompt(llama, {"thing": note}, {"thing": 1}, text="USER: [[x]] What?")
    assert cut.token_ids.count(1) == 1
    assert cut.token_ids[0] == 1
    assert without_slots(llama, cut) == ["<s> USER: ", "What?"]


def test_a_placeholder_outside_the_vocabulary_cuts_the_text(qwen: Tokenizer, note: Any) -> None:
    text = "One [[note]], two [[note]][[note]]."
    prompt = tokenize_prompt(qwen, {"note": note}, {"note": 3}, text=text)
    assert [(s.index, s.length) for s in prompt.slots] == [(0, 0), (1, 0), (2, 0)]
    assert without_slots(qwen, prompt) == ["One ", ", two ", "", "."]


def test_a_placeholder_that_parts_the_text_makes_texts_of_the_pieces(
    llama: Tokenizer, make: Any
) -> None:
    """As if each piece were a prompt: with <s> in front, and its own beginning of a word."""
    note = make("note", "[[note]]", parts_text=True)
    pieces = ["One", " two ", "", "\nthree"]
    prompt = tokenize_prompt(llama, {"note": note}, {"note": 3}, text="[[note]]".join(pieces))
    expected = [llama.encode(piece, add_special_tokens=True) for piece in pieces]
    assert list(prompt.token_ids) == [i for ids in expected for i in ids]
    ends = [sum(map(len, expected[: i + 1])) for i in range(3)]
    assert prompt.slots == tuple(Slot("note", i, end, 0) for i, end in enumerate(ends))
    bare = tokenize_prompt(
        llama, {"note": note}, {"note": 1}, text="a[[note]]b", add_special_tokens=False
    )
    assert list(bare.token_ids) == llama.encode("a") + llama.encode("b")


def test_kinds_mix(qwen: Tokenizer, thing: Any, note: Any) -> None:
    adapters = {"thing": thing, "note": note}
    text = f"a {PAD} b [[note]] c {PAD} d"
    prompt = tokenize_prompt(qwen, adapters, {"thing": 2, "note": 1}, text=text)
    assert [(s.kind, s.index) for s in prompt.slots] == [("thing", 0), ("note", 0), ("thing", 1)]
    assert without_slots(qwen, prompt) == ["a ", " b ", " c ", " d"]


def test_numbered_placeholders_name_their_items(qwen: Tokenizer, numbered: Any) -> None:
    text = "second [[2]] first [[1]] tenth [[10]]"
    adapters = {"note": numbered}
    prompt = tokenize_prompt(qwen, adapters, {"note": 2}, text=text.replace("[[10]]", ""))
    assert [slot.index for slot in prompt.slots] == [1, 0]
    further = ("[[1]] [[2]] [[3]]", "[[1]] [[2]] [[9]]", "[[1]] [[2]] [[99]]")
    for wrong in ("[[1]] [[1]]", "[[1]]", "[[1]] [[3]]", *further):
        with pytest.raises(RequestError, match=r"\[\[1\]\] … \[\[2\]\]"):
            tokenize_prompt(qwen, adapters, {"note": 2}, text=wrong)


def test_the_generic_spelling_stands_in_for_the_familys(qwen: Tokenizer, thing: Any) -> None:
    adapters = {"thing": thing}
    generic = tokenize_prompt(qwen, adapters, {"thing": 2}, text="<thing> and <thing>")
    own = tokenize_prompt(
        qwen, adapters, {"thing": 2}, text=f"<|thing_start|>{PAD} and <|thing_start|>{PAD}"
    )
    assert generic == own
    both = tokenize_prompt(qwen, adapters, {"thing": 1}, text=f"<thing> is {PAD}")
    assert list(both.token_ids) == qwen.encode(f"<thing> is {PAD}")
    no_items = tokenize_prompt(qwen, adapters, {}, text="a <thing> tag")
    assert list(no_items.token_ids) == qwen.encode("a <thing> tag")


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("none", 1, r"0 placeholders \(<\|thing_pad\|>\) for 1 item of kind thing"),
        (f"{PAD}", 2, "1 placeholder .* for 2 items"),
        (f"{PAD}{PAD}", 1, "2 placeholders .* for 1 item of"),
        (f"{PAD}", 0, "1 placeholder .* for 0 items"),
        ("<thing><thing>", 1, "2 placeholders .* for 1 item of"),
    ],
)
def test_counts_must_match(
    qwen: Tokenizer, thing: Any, text: str, count: int, message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        tokenize_prompt(qwen, {"thing": thing}, {"thing": count}, text=text)
    ids = qwen.encode(text.replace("<thing>", PAD))
    if 0 < count < ids.count(ids[-1]):
        return  # perhaps expanded by a processor
    with pytest.raises(RequestError, match=message):
        tokenized_ids(ids, {"thing": thing}, {"thing": count})


PIECES = ["the fox", PAD, "[[note]]", " ", "\n", "<|im_end|>", "é🎈", "."]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8))
def test_nothing_but_placeholders_is_lost(
    qwen: Tokenizer, thing: MediaAdapter, note: MediaAdapter, pieces: list[str]
) -> None:
    counts = {"thing": pieces.count(PAD), "note": pieces.count("[[note]]")}
    adapters = {"thing": thing, "note": note}
    prompt = tokenize_prompt(qwen, adapters, counts, text="".join(pieces))
    texts = [piece for piece in pieces if piece not in (PAD, "[[note]]")]
    assert "".join(without_slots(qwen, prompt)) == "".join(texts)
    if not counts["note"]:
        assert list(prompt.token_ids) == qwen.encode("".join(pieces))


def test_literal_segments_make_no_special_tokens(qwen: Tokenizer, llama: Tokenizer) -> None:
    for tokenizer, special in ((qwen, "<|im_end|>"), (llama, "</s>")):
        segments = [
            TextSegment(f"Hello{special} "),
            LiteralSegment(special),
            TextSegment("there"),
            SlotSegment("note", 0, "[[note]]"),
        ]
        prompt = tokenize_segments(tokenizer, segments, add_special_tokens=False)
        assert prompt.token_ids.count(tokenizer.token_to_id(special)) == 1
        before = tokenizer.decode(tokenizer.encode(f"Hello{special} "))
        assert tokenizer.decode(prompt.token_ids) == f"{before}{special}there"
        assert prompt.slots == (Slot("note", 0, len(prompt.token_ids), 0),)
