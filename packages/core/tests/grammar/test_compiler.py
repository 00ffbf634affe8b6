"""What can't be compiled is refused with its fault, before it costs anything."""

from __future__ import annotations

import json
import sys
import threading
from typing import Any

import pytest

from sensorium import StructuredOutputs
from sensorium.errors import LimitError, RequestError, UnsupportedError
from sensorium.grammar import Grammars, bounds

EOS = frozenset([0])


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


def chain(length: int) -> dict[str, Any]:
    """A schema that refers to a definition that refers to another …"""
    links = {
        f"d{i}": {"type": "array", "items": {"$ref": f"#/$defs/d{i + 1}"}} for i in range(length)
    }
    return {"$defs": {**links, f"d{length}": {}}, "$ref": "#/$defs/d0"}


FAULTY: dict[str, tuple[StructuredOutputs, str]] = {
    "keyword": (
        StructuredOutputs(json={"properties": {"a/b": {"uniqueItems": True}}}),
        r"uses uniqueItems at #/properties/a~1b, which",
    ),
    "keywords": (
        StructuredOutputs(json={"if": {}, "then": {}}),
        "uses if at # and then at #, which no grammars",
    ),
    "oneOf": (
        StructuredOutputs(json={"items": {"oneOf": [{"type": "string"}, {"minLength": 1}]}}),
        "oneOf at #/items has branches that may hold together",
    ),
    "format": (
        StructuredOutputs(json={"anyOf": [{"type": "string", "format": "colour"}]}),
        "the format 'colour' at #/anyOf/0",
    ),
    "type": (StructuredOutputs(json={"type": "strin"}), "the type 'strin' at #, which JSON"),
    "remote": (
        StructuredOutputs(json={"$ref": "http://example.org/x.json"}),
        "refers to 'http://example.org/x.json', which is not in it",
    ),
    "false": (StructuredOutputs(json=False), "allows no value at all"),
    "nothing": (StructuredOutputs(json={"enum": []}), "allows no value at all"),
    "patterns": (
        StructuredOutputs(json={"patternProperties": {"a": {}, "b": {}}}),
        "may match the same name",
    ),
    "look-around": (
        StructuredOutputs(json={"type": "string", "pattern": "a(?=b)"}),
        "pattern in the schema can't be used: look-around",
    ),
    "no JSON": (StructuredOutputs(json="{a}"), "The schema is no JSON"),
    "no object": (StructuredOutputs(json="[1]"), "it must be a JSON object"),
    "x-guidance": (StructuredOutputs(json={"x-guidance": {"lenient": True}}), "x-guidance"),
    "regex": (StructuredOutputs(regex="a("), "regex can't be used: unclosed group"),
    "word border": (StructuredOutputs(regex=r"\bfox"), "word boundaries are not supported"),
    "back reference": (StructuredOutputs(regex=r"(a)\1"), "backreferences are not supported"),
    "NUL": (StructuredOutputs(regex="a\0b"), "NUL"),
    "NUL in a pattern": (
        StructuredOutputs(json={"type": "string", "pattern": "a\0b"}),
        "pattern at # holds a NUL",
    ),
    "surrogate": (StructuredOutputs(regex="\ud800"), "half a surrogate pair"),
    "empty": (StructuredOutputs(grammar='start: ""'), "nothing but an empty answer"),
    "rule": (StructuredOutputs(grammar="start: fox"), "line 1, column 8: unknown name"),
    "start": (StructuredOutputs(grammar='fox: "a"'), "no start rule"),
    "whitespace": (
        StructuredOutputs(json={"type": "array"}, whitespace_pattern="[ "),
        "pattern in the schema can't be used: unclosed character class",
    ),
}

TOO_LARGE: dict[str, tuple[StructuredOutputs, str]] = {
    "schema bytes": (StructuredOutputs(json={"description": "x" * 70_000}), "70.* bytes"),
    "schema depth": (StructuredOutputs(json=nested(70)), "nested 71 deep; at most 64"),
    "text depth": (StructuredOutputs(json='{"items":' * 5_000 + "{}" + "}" * 5_000), "deep"),
    "references": (StructuredOutputs(json=chain(400)), "refers to is nested 801 deep"),
    "properties": (
        StructuredOutputs(json={"properties": {f"p{i}": {} for i in range(501)}}),
        "501 properties at #",
    ),
    "multiples": (
        StructuredOutputs(json={"allOf": [{"multipleOf": 997}, {"multipleOf": 9.91}]}),
        "multiples of 9.91, 997|multiples of 997, 9.91",
    ),
    "pattern": (
        StructuredOutputs(json={"type": "string", "pattern": "(a{1000}){1000}"}),
        "pattern at # has 1000000 characters",
    ),
    "regex": (StructuredOutputs(regex="((a{99}){99}){9}"), "has 88209 characters once"),
    "regex bytes": (StructuredOutputs(regex="x" * 5_000), "5000 bytes; at most 4096"),
    "choices": (StructuredOutputs(choice=[str(i) for i in range(10_001)]), "10001 strings"),
    "choice bytes": (StructuredOutputs(choice=["x" * 70_000]), "70000 bytes"),
    "grammar bytes": (StructuredOutputs(grammar="start: A\nA: " + "x" * 70_000), "bytes"),
    "rules": (
        StructuredOutputs(
            grammar="start: r0\n" + "".join(f'r{i}: "a" r{i + 1}\n' for i in range(3_000))
        ),
        "rules and brackets",
    ),
    "terminal": (StructuredOutputs(grammar='start: A\nA: ("a"{1000}){1000}'), "grows by"),
    "quoted brackets": (
        StructuredOutputs(grammar='start: A\nA: ("a" ")"{1000}){1000}'),
        "grows by",
    ),
    "multiples in a grammar": (
        StructuredOutputs(grammar='start: %json {"multipleOf": 1000003}'),
        "least common",
    ),
}


@pytest.mark.parametrize("case", FAULTY)
def test_faults_are_named(speller, case: str) -> None:
    form, sentence = FAULTY[case]
    with pytest.raises(RequestError, match=sentence) as caught:
        speller.compile(form)
    text = str(caught.value)
    assert text[0].isupper() or text.split()[0] in ("regex", "grammar")
    assert text.endswith(".")
    assert "\n" not in text


@pytest.mark.parametrize("case", TOO_LARGE)
def test_what_is_too_large_is_refused_with_its_numbers(speller, case: str) -> None:
    form, sentence = TOO_LARGE[case]
    with pytest.raises((LimitError, RequestError), match=sentence):
        speller.compile(form)


@pytest.mark.parametrize(
    ("regex", "size"),
    [
        ("", 0),
        ("abc", 3),
        ("a{3}", 3),
        ("(ab{2}){0,4}", 12),
        ("a{5,}", 5),
        ("a*b+c?", 3),
        (r"[a-z]{10}", 10),
        (r"[]a]{2}[^]\]]{3}", 5),
        (r"\{3}\d{4}", 8 - 1),
        (r"\p{Greek}{3}", 3),
        ("a{x}", 4),
        ("((a{10}){10}){10}", 1000),
        ("(a|bc){3}", 12),
        (")a{2}", 3),
    ],
)
def test_the_size_of_an_expression(regex: str, size: int) -> None:
    assert bounds.regex_size(regex) == size


def test_the_largest_that_is_allowed_compiles_on_a_small_stack(speller) -> None:
    """What passes the bounds can't overflow a thread's stack, which would end the process."""
    links = bounds.MAX_REFERENCES_DEPTH // 2 - 1
    deepest = [
        StructuredOutputs(json=chain(links)),
        StructuredOutputs(json=nested(bounds.MAX_SCHEMA_DEPTH - 1)),
        StructuredOutputs(
            grammar="start: r0\n"
            + "".join(f'r{i}: "a" r{i + 1}\n' for i in range(450))
            + 'r450: "b"\n'
        ),
    ]
    speller.grammars.vocabulary(frozenset([speller.eos_id]))
    found: list[object] = []

    def work() -> None:
        found.extend(speller.compile(form) for form in deepest)

    before = threading.stack_size(2 << 20)
    try:
        thread = threading.Thread(target=work)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert len(found) == len(deepest)


def test_grammars_are_kept_by_their_text(speller) -> None:
    grammars = Grammars(speller.tokenizer, speller.vocab_size)
    form = StructuredOutputs(json={"type": "integer"})
    assert grammars.find(form, EOS) is None
    grammar = grammars.compile(form, EOS)
    same = StructuredOutputs(json=json.dumps({"type": "integer"}))
    assert grammars.compile(same, EOS) is grammar
    assert grammars.find(same, EOS) is grammar
    other = StructuredOutputs(json={"type": "integer"}, disable_any_whitespace=True)
    assert grammars.compile(other, EOS) is not grammar


def test_the_grammars_used_last_are_kept(speller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sensorium.grammar.grammars.MAX_GRAMMARS", 2)
    grammars = Grammars(speller.tokenizer, speller.vocab_size)
    forms = [StructuredOutputs(regex=letter) for letter in "abc"]
    first, second = grammars.compile(forms[0], EOS), grammars.compile(forms[1], EOS)
    assert grammars.compile(forms[0], EOS) is first
    grammars.compile(forms[2], EOS)
    assert grammars.find(forms[0], EOS) is first
    assert grammars.find(forms[1], EOS) is not second


def test_a_vocabulary_that_was_read_before(speller, monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(speller.tokenizer, speller.vocab_size)
    grammars.load(EOS)
    monkeypatch.setattr("sensorium.grammar.grammars.Vocabulary", None)
    assert grammars.compile(StructuredOutputs(regex="a"), EOS).vocabulary.eos_ids == (0,)


def test_without_the_library(speller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    Grammars(speller.tokenizer, speller.vocab_size).load(EOS)
    grammars = Grammars(speller.tokenizer, speller.vocab_size)
    with pytest.raises(UnsupportedError, match=r"pip install 'sensorium-core\[structured\]'"):
        grammars.compile(StructuredOutputs(regex="a"), EOS)


def test_a_checkpoint_whose_texts_do_not_end(speller) -> None:
    grammars = Grammars(speller.tokenizer, speller.vocab_size)
    with pytest.raises(UnsupportedError, match="a token that ends a text"):
        grammars.compile(StructuredOutputs(regex="a"), frozenset([speller.vocab_size + 5]))


def test_a_model_without_the_letters(speller) -> None:
    grammars = Grammars(speller.tokenizer, 5)
    with pytest.raises(RequestError, match="no answer of this model's tokens"):
        grammars.compile(StructuredOutputs(regex="zebra"), EOS)


def test_a_tokenizer_that_the_library_does_not_read(tmp_path) -> None:
    import tokenizers

    from sensorium.tokenizer import Tokenizer

    words = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"fox": 0, "end": 1, "?": 2}, unk_token="?")
    )
    words.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "end"}')
    grammars = Grammars(Tokenizer.load(tmp_path), 3)
    with pytest.raises(UnsupportedError, match="llguidance doesn't read it"):
        grammars.compile(StructuredOutputs(regex="fox"), EOS)
