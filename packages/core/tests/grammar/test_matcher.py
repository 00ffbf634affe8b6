"""Masks allow exactly the answers that the form describes, to their end."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sensorium import StructuredOutputs
from sensorium.errors import RequestError
from sensorium.grammar import Grammars, MaskMaker
from sensorium.tokenizer import Tokenizer

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_a_schema(speller) -> None:
    grammar = speller.compile(StructuredOutputs(json=PERSON))
    for text in (
        '{"name":"a b","age":7}',
        '{"name": "", "age": -3}',
        '{\n  "name":"x",\n "age":1}',
    ):
        assert speller.takes(grammar.matcher(), text), text
    for text in ('{"name":"a"}', '{"age":7,"name":"a"}', '{"name":"a","age":100}', "[]", ' {"na'):
        assert not speller.takes(grammar.matcher(), text), text


def test_whitespace_is_bounded_forbidden_or_the_callers(speller) -> None:
    schema = {"type": "array", "items": {"type": "integer"}}
    texts = ["[1,2]", "[1, 2]", "[\n 1,\n 2\n]", "[1,  2]", "[1,\t2]"]
    taken = {
        name: [speller.takes(speller.compile(form).matcher(), text) for text in texts]
        for name, form in {
            "usual": StructuredOutputs(json=schema),
            "none": StructuredOutputs(json=schema, disable_any_whitespace=True),
            "tabs": StructuredOutputs(json=schema, whitespace_pattern=r"\t"),
        }.items()
    }
    assert taken == {
        "usual": [True, True, True, False, False],
        "none": [True, False, False, False, False],
        "tabs": [True, False, False, False, True],
    }


@pytest.mark.parametrize(
    ("name", "before", "behind"),
    [
        ("time", "12:30:59.", "Z"),
        ("date-time", "2026-02-03T12:30:59.", "+01:00"),
        ("duration", "P", "Y"),
    ],
)
def test_a_formats_digits_are_bounded(speller, name: str, before: str, behind: str) -> None:
    whole = {"type": "string", "format": name}
    within = {"type": "object", "properties": {"at": whole}, "required": ["at"]}
    beside = {**whole, "allOf": [{"maxLength": 99}]}
    for schema, wrap in ((whole, "{}"), (within, '{{"at":{}}}'), (beside, "{}")):
        grammar = speller.compile(StructuredOutputs(json=schema))
        for num_digits, is_taken in ((1, True), (9, True), (10, False), (60, False)):
            text = wrap.format(json.dumps(before + "7" * num_digits + behind))
            assert speller.takes(grammar.matcher(), text) == is_taken, text


def test_other_properties_are_closed_where_asked(speller) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {}}}}}
    for closes in (False, True):
        form = StructuredOutputs(json=schema, disable_additional_properties=closes)
        grammar = speller.compile(form)
        assert speller.takes(grammar.matcher(), '{"a":{"b":1}}')
        assert speller.takes(grammar.matcher(), '{"c":1}') is not closes
        assert speller.takes(grammar.matcher(), '{"a":{"c":1}}') is not closes


def test_any_object(speller) -> None:
    grammar = speller.compile(StructuredOutputs(json_object=True))
    assert speller.takes(grammar.matcher(), '{"a":[1,{"b":null}]}')
    assert not speller.takes(grammar.matcher(), "[1]")


def test_a_regex_matches_the_whole_answer(speller) -> None:
    grammar = speller.compile(StructuredOutputs(regex=r"[a-z]+@(here|there)\.org"))
    assert speller.takes(grammar.matcher(), "fox@there.org")
    assert not speller.takes(grammar.matcher(), "a fox@there.org")
    assert not speller.takes(grammar.matcher(), "fox@there")


def test_a_grammar(speller) -> None:
    lark = 'start: sum\nsum: NUMBER | sum "+" NUMBER\nNUMBER: /[0-9]{1,3}/'
    grammar = speller.compile(StructuredOutputs(grammar=lark))
    assert speller.takes(grammar.matcher(), "1+23+456")
    assert not speller.takes(grammar.matcher(), "1+")


@given(
    st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1), min_size=1)
)
@example(["0", "\uf900"])
@settings(max_examples=60, deadline=None)
def test_each_choice_and_nothing_else(speller, choices: list[str]) -> None:
    grammar = speller.compile(StructuredOutputs(choice=choices))
    for text in choices:
        assert bytes_taken(speller, grammar.matcher(), text)
        assert bytes_taken(speller, grammar.matcher(), text + "!") is (text + "!" in choices)


@pytest.mark.parametrize("text", ["\uf900", "e\u0301", "\u212b", " \uf900 e\u0301"])
def test_forced_text_is_not_normalised(speller, text: str) -> None:
    """Qwen's tokenizers apply NFC to prompts; an answer is what its grammar says."""
    matcher = speller.compile(StructuredOutputs(choice=[text])).matcher()
    forced = matcher.forced(99)
    backend = speller.grammars.vocabulary(frozenset([speller.eos_id])).backend
    assert backend.decode_bytes(list(forced)) == text.encode()
    matcher.accept(forced)
    assert matcher.is_accepting


def bytes_taken(speller, matcher, text: str) -> bool:
    """As ``Speller.takes``, in the library's own division, which keeps every character."""
    tokens = speller.grammars.vocabulary(frozenset([speller.eos_id])).backend.tokenize_bytes(
        text.encode()
    )
    for token_id in tokens:
        if not speller.masks(matcher)[0, token_id]:
            return False
        matcher.accept([token_id])
    return matcher.is_accepting


def test_rows_of_several_grammars(speller) -> None:
    words = speller.compile(StructuredOutputs(regex="[a-z]+"))
    digits = speller.compile(StructuredOutputs(regex="[0-9]+"))
    word, digit = speller.masks(words.matcher(), digits.matcher())
    assert word.any()
    assert digit.any()
    assert not (word & digit).any()
    assert not word[speller.tokenizer.vocab_size :].any()  # places that no token has
    special = sorted(speller.tokenizer.special_ids)
    assert not word[special].any()  # nor the end, before the first letter


def test_answers_of_one_grammar_go_their_own_ways(speller) -> None:
    grammar = speller.compile(StructuredOutputs(choice=["ab", "ac"]))
    first, second = grammar.matcher(), grammar.matcher()
    assert speller.takes(first, "ab")
    assert first.is_complete
    assert not second.is_accepting
    assert speller.takes(second, "ac")


def test_the_end_is_allowed_only_where_the_answer_may_end(speller) -> None:
    grammar = speller.compile(StructuredOutputs(regex="a{1,2}"))
    matcher = grammar.matcher()
    [a] = speller.tokenizer.encode_plain("a", continues=True)
    assert not speller.masks(matcher)[0, speller.eos_id]
    matcher.accept([a])
    assert matcher.is_accepting
    assert not matcher.is_complete
    assert speller.masks(matcher)[0, speller.eos_id]
    matcher.accept([a])
    assert matcher.is_complete
    assert np.flatnonzero(speller.masks(matcher)[0]).tolist() == [speller.eos_id]


def test_an_end_that_is_ignored_is_not_allowed_while_the_answer_can_go_on(speller) -> None:
    grammar = speller.compile(StructuredOutputs(regex="a{1,2}"))
    matcher = grammar.matcher(ignore_eos=True)
    [a] = speller.tokenizer.encode_plain("a", continues=True)
    matcher.accept([a])
    mask = speller.masks(matcher)[0]
    assert mask[a]
    assert not mask[speller.eos_id]
    matcher.accept([a])
    assert matcher.is_complete


def test_forced_tokens_are_the_tokenizers_own(speller) -> None:
    form = StructuredOutputs(regex="the quick brown (fox|dog) jumps")
    matcher = speller.compile(form).matcher()
    ids = matcher.forced(100)
    assert "the quick brown ".startswith(speller.tokenizer.decode(ids))
    assert len(ids) > 2
    whole = speller.tokenizer.encode_plain("the quick brown fox jumps", continues=True)
    assert list(ids) == whole[: len(ids)]
    assert matcher.forced(2) == ids[:2]
    assert matcher.forced(0) == ()
    for token_id in ids:
        allowed = speller.masks(matcher)[0]
        assert allowed[token_id]
        matcher.accept([token_id])


def test_a_token_that_is_not_allowed_is_an_error_of_this_answer_alone(speller) -> None:
    grammar = speller.compile(StructuredOutputs(regex="[a-z]+"))
    matcher, other = grammar.matcher(), grammar.matcher()
    with pytest.raises(RequestError, match="After 0 tokens"):
        matcher.accept(speller.tokenizer.encode_plain("7", continues=True))
    assert matcher.has_failed
    assert not other.has_failed
    assert speller.takes(other, "fox")


def test_tokens_beyond_the_logits_are_neither_allowed_nor_forced(speller) -> None:
    """A tokenizer may have more tokens than the model's output."""
    tokenizer = speller.tokenizer
    word = tokenizer.encode_plain("the quick", continues=True)
    grammars = Grammars(tokenizer, max(word))
    matcher = grammars.compile(StructuredOutputs(regex="the quick"), frozenset([0])).matcher()
    mask = np.zeros((1, -(-max(word) // 32)), np.int32)
    MaskMaker(1).fill([matcher], mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert bits.sum() > 0
    assert bits.nonzero()[0].max() < max(word)
    assert len(matcher.forced(99)) < len(word)


def test_threads_share_grammars(speller) -> None:
    forms = [StructuredOutputs(json={"const": f"word {i % 7}"}) for i in range(40)]
    found: list[bool] = []

    def work(form: StructuredOutputs) -> None:
        text = json.dumps(json.loads(form.json)["const"])
        matcher = speller.compile(form).matcher()
        ids = Tokenizer.encode_plain(speller.tokenizer, text, continues=True)
        matcher.accept(ids)
        found.append(matcher.is_complete)

    threads = [threading.Thread(target=work, args=(form,)) for form in forms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 40
