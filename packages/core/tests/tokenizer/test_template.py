"""Chat templates render as transformers renders them, and know what they want."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from sensorium.errors import ConfigError, RequestError
from sensorium.tokenizer import ChatTemplate, Tokenizer, load_template

QWEN = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}"
    "{{ message['content'] }}<|im_end|>\n{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}{% endfor %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|s|>' + message['role'] + '\n\n' + message['content'] | trim + '<|e|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}"
    "{% endfor %}"
)
MACRO = (
    "{%- macro show(parts, loud) -%}{%- if parts is string -%}{{ parts }}{%- else -%}"
    "{%- for item in parts -%}{{ item.text }}{%- endfor -%}{%- endif -%}{%- endmacro -%}"
    "{%- for m in messages -%}{{ show(m.content, loud=false) }}{%- endfor -%}"
)
TALK = [
    {"role": "user", "content": "Hi <b>you</b>  "},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "Bye"},
]


def template(source: str, **specials: str) -> ChatTemplate:
    return ChatTemplate(source, specials)


def parts(loop: str, before: str = "") -> str:
    """Strings as they are, parts by ``loop``, however it reaches them."""
    return (
        f"{{% for m in messages %}}[{{{{ m.role }}}}]{before}{{% if m.content is string %}}"
        f"{{{{ m.content }}}}{{% else %}}{loop}{{% if p.type == 'text' %}}{{{{ p.text }}}}"
        "{% endif %}{% endfor %}{% endif %}{% endfor %}"
    )


@pytest.mark.parametrize(
    ("source", "content_format", "takes_strings"),
    [
        (QWEN, "openai", True),
        (LLAVA, "openai", False),
        (LLAMA3, "string", True),
        (MACRO, "openai", True),
        (parts("{% for p in m.content %}"), "openai", True),
        (parts("{% for p in m.content | default([]) %}"), "openai", True),
        (parts("{% for p in c %}", "{% set c = m.get('content') %}"), "openai", True),
        (parts("{% for p in m.content or [] %}"), "openai", True),
        (parts("{% for p in c %}", "{% set role, c = m.role, m.content %}"), "openai", True),
        (parts("{% for p in n.b %}", "{% set n = namespace(b=1) %}{% set n.b = m.content %}"),
         "openai", True),
        (parts("{% for i in range(m.content | length) %}{% set p = m.content[i] %}"),
         "openai", True),
        ("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}",
         "openai", False),
        ("{{ messages[0].content | map(attribute='text') | join(' ') }}", "openai", False),
        ("{{ messages[1].content if messages[0].role == 'system' else raise_exception('no') }}",
         "string", True),
        ("{{ messages[0].content | tojson }}", "string", True),
        ("{{ messages[0].content | string | upper | lower }}", "string", True),
        ("{% for m in messages %}{% for t in m.tool_calls %}{{ t }}{% endfor %}{% endfor %}",
         "string", True),
        ("{{ messages[0]['content'] }}", "string", True),
    ],
)  # fmt: skip
def test_content_format(source: str, content_format: str, takes_strings: bool) -> None:
    found = template(source)
    assert (found.content_format, found.takes_strings) == (content_format, takes_strings)


def test_what_is_unclear_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    source = "{{ messages | length }} messages, of which none is printed"
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert template(source).content_format == "string"
    [record] = caplog.records
    assert "chat_template_content_format" in record.getMessage()


@pytest.mark.parametrize("source", [QWEN, LLAMA3, MACRO])
@pytest.mark.parametrize("prompt", [False, True])
def test_rendering_equals_transformers(qwen: Any, source: str, prompt: bool) -> None:
    ours = ChatTemplate(source, {**qwen.ours.special_tokens, "bos_token": "<b>"})
    expected = qwen.oracle.apply_chat_template(
        TALK,
        chat_template=source,
        tokenize=False,
        add_generation_prompt=prompt,
        bos_token="<b>",
    )
    assert ours.render(TALK, add_generation_prompt=prompt) == expected


EXTRAS = [
    "{{ {'a': '<é>', 'b': [1, none]} | tojson }} {{ [1] | tojson(indent=2) }}",
    "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "a{% generation %} {{ messages[0].role }}\n{% endgeneration %}b",
    "{{ strftime_now('%Y')|length }}{{ documents is none }}{{ tools is none }}",
    "{% set a = namespace(n=0) %}{% for m in messages %}{% set a.n = a.n + 1 %}{% endfor %}{{a.n}}",
    "   {% if true %}  \nx\n{% endif %}\n  y{{ pad_token }}{{ nothing }}",
]


@pytest.mark.parametrize("source", EXTRAS)
def test_what_templates_rely_on(qwen: Any, source: str) -> None:
    ours = ChatTemplate(source, qwen.ours.special_tokens)
    expected = qwen.oracle.apply_chat_template(TALK, chat_template=source, tokenize=False)
    assert ours.render(TALK, add_generation_prompt=False) == expected


CALL = {"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
JOINS = "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
PRINTS = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
ASKS = "{% for m in messages %}{{ m.role }}{{ m.content if m.content is defined }}{% endfor %}"


@pytest.mark.parametrize("left_out", [False, True])
@pytest.mark.parametrize("source", [JOINS, PRINTS, ASKS])
def test_a_message_without_content(qwen: Any, source: str, left_out: bool) -> None:
    """As transformers renders it; empty text where a template joins strings and that fails."""
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    talk = [{"role": "user", "content": "None?"}, called, {"role": "tool", "content": "42"}]
    oracle = talk if source is not JOINS else [talk[0], {**called, "content": ""}, talk[2]]
    expected = qwen.oracle.apply_chat_template(oracle, chat_template=source, tokenize=False)
    given = {k: v for k, v in called.items() if v is not None} if left_out else called
    found = template(source).render([talk[0], given, talk[2]], add_generation_prompt=False)
    assert found == expected


def test_a_template_that_fails_with_and_without_content() -> None:
    source = "{{ raise_exception('left out' if messages[0].content is undefined else 'empty') }}"
    with pytest.raises(RequestError, match="left out"):
        template(source).render([{"role": "assistant"}], add_generation_prompt=False)


@pytest.mark.parametrize("source", [QWEN, LLAMA3])
@pytest.mark.parametrize("end", ["I think", "I think  "])
def test_continuing_the_last_message_equals_transformers(qwen: Any, source: str, end: str) -> None:
    talk = [*TALK, {"role": "assistant", "content": end}]
    ours = ChatTemplate(source, {"bos_token": ""})
    expected = qwen.oracle.apply_chat_template(
        talk, chat_template=source, tokenize=False, continue_final_message=True, bos_token=""
    )
    found = ours.render(talk, add_generation_prompt=False, continue_final_message=True)
    assert found == expected


def test_continuing_takes_the_last_text_part() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}, {"type": "thing"}]
    talk = [{"role": "assistant", "content": parts}]
    found = template(MACRO).render(talk, add_generation_prompt=False, continue_final_message=True)
    assert found == "ab"
    assert parts[1]["text"] == "b", "the caller's message is left alone"


@pytest.mark.parametrize(
    ("source", "talk", "options", "message"),
    [
        (QWEN, TALK, {"add_generation_prompt": True, "continue_final_message": True}, "exclude"),
        ("{{ raise_exception('Roles!') }}", TALK, {}, "refuses.*Roles!"),
        ("{{ messages[0].role + 1 }}", TALK, {}, "fails on this conversation"),
        ("{{ messages[9].role.x }}", TALK, {}, "fails on this conversation"),
        ("{{ messages.__class__.__mro__ }}", TALK, {}, "fails.*unsafe"),
        ("{{ messages.append(1) }}", TALK, {}, "fails.*unsafe|fails on"),
        ("{{ range(10**9) | list }}", TALK, {}, "fails on this conversation"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", TALK, {}, "recurses"),
        ("nothing", TALK, {"continue_final_message": True}, "leaves out"),
        (QWEN, [{"role": "user", "content": []}], {"continue_final_message": True}, "no text"),
    ],
)  # fmt: skip
def test_failures_are_the_requests(
    source: str, talk: Any, options: dict[str, bool], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        template(source).render(talk, **{"add_generation_prompt": False, **options})


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(ConfigError, match="line 2"):
        template("fine\n{% for %}")


def test_a_template_for_tools() -> None:
    both = ChatTemplate("plain", {}, "with {{ tools[0].name }}")
    assert both.render(TALK, add_generation_prompt=False) == "plain"
    assert both.render(TALK, add_generation_prompt=False, tools=[{"name": "t"}]) == "with t"


# --- where it comes from --------------------------------------------------------------


def tokenizer_in(folder: Path, source: Tokenizer, templates: dict[str, str]) -> Tokenizer:
    source._backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<|endoftext|>", "chat_template": templates.get("tokenizer")})
    )
    return Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        ({"explicit", "processor", "tokenizer", "family"}, "explicit"),
        ({"processor", "tokenizer", "family"}, "processor"),
        ({"tokenizer", "family"}, "tokenizer"),
        ({"family"}, "family"),
        (set(), None),
    ],
)
def test_the_order_of_sources(
    qwen: Any, tmp_path: Path, present: set[str], expected: str | None
) -> None:
    tokenizer = tokenizer_in(tmp_path, qwen.ours, {name: name for name in present})
    if "processor" in present:
        (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "processor"}))
    (tmp_path / "explicit.jinja").write_text("explicit")
    explicit = str(tmp_path / "explicit.jinja") if "explicit" in present else None
    found = load_template(explicit, tmp_path, tokenizer, "family" if "family" in present else None)
    assert (found and found.source) == expected


def test_the_processors_files_in_their_order(qwen: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path, qwen.ours, {"tokenizer": "tokenizer"})
    files = [
        ("chat_template.jinja", "jinja", "jinja"),
        ("chat_template.json", json.dumps({"chat_template": "legacy"}), "legacy"),
        ("preprocessor_config.json", json.dumps({"chat_template": "old"}), "old"),
        ("processor_config.json", json.dumps({"chat_template": "config"}), "config"),
    ]
    for name, text, expected in files:
        (tmp_path / name).write_text(text)
        found = load_template(None, tmp_path, Tokenizer.load(tmp_path), None)
        assert found is not None
        assert found.source == expected
    assert tokenizer.chat_template == "tokenizer"
    assert Tokenizer.load(tmp_path).chat_template == "jinja"


def test_named_templates(qwen: Any, tmp_path: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    tokenizer = tokenizer_in(tmp_path, qwen.ours, {"tokenizer": named})  # type: ignore[dict-item]
    found = load_template(None, tmp_path, tokenizer, None)
    assert found is not None
    assert found.render(TALK, add_generation_prompt=False, tools=[{}]) == "tools"
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("rag")
    assert Tokenizer.load(tmp_path).chat_templates["rag"] == "rag"


def test_an_explicit_template_may_be_inline_and_must_exist(qwen: Any, tmp_path: Path) -> None:
    found = load_template("{{ messages[0].role }}", tmp_path, qwen.ours, None)
    assert found is not None
    assert found.render(TALK, add_generation_prompt=False) == "user"
    with pytest.raises(ConfigError, match="neither a file nor a Jinja template"):
        load_template("nowhere.jinja", tmp_path, qwen.ours, None)


def test_an_explicit_template_is_a_name_then_a_path_then_inline(
    qwen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    named = {"brief": "by name", "{{ 1 }}": "by an odd name"}
    for name in ("brief.jinja", "other.jinja"):
        Path(name).write_text(f"the file {name}")
    expected = {
        "brief": "by name",
        "brief.jinja": "by name",
        "./brief.jinja": "the file brief.jinja",
        "other.jinja": "the file other.jinja",
        "{{ 1 }}": "by an odd name",
        "{{ 2 }}": "2",
    }
    for explicit, rendered in expected.items():
        found = load_template(explicit, tmp_path, qwen.ours, None, named)
        assert found is not None
        assert found.render(TALK, add_generation_prompt=False) == rendered, explicit
    with pytest.raises(ConfigError, match=r"no template of the model's family \(brief, "):
        load_template("breif", tmp_path, qwen.ours, None, named)


def test_a_strangers_template_is_no_path(
    qwen: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("brief.jinja").write_text("a file")
    named = {"brief": "by name"}
    for explicit, rendered in {"brief.jinja": "by name", "{{ 2 }}": "2"}.items():
        found = load_template(explicit, tmp_path, qwen.ours, None, named, trusted=False)
        assert found is not None
        assert found.render(TALK, add_generation_prompt=False) == rendered
    for path in ("./brief.jinja", str(tmp_path / "brief.jinja"), "b" * 5000):
        with pytest.raises(ConfigError, match="is no Jinja template, no template of the"):
            load_template(path, tmp_path, qwen.ours, None, named, trusted=False)


def test_bos_is_added_as_transformers_does(qwen: Any, tmp_path: Path) -> None:
    tokenizer = tokenizer_in(tmp_path, qwen.ours, {"tokenizer": "x"})
    of_tokenizer = load_template(None, tmp_path, tokenizer, None)
    (tmp_path / "preprocessor_config.json").write_text("{}")
    of_processor = load_template(None, tmp_path, tokenizer, None)
    assert of_tokenizer is not None
    assert of_processor is not None
    assert not of_tokenizer.needs_specials("Hello")
    assert of_processor.needs_specials("Hello")
    assert not of_processor.needs_specials("<|endoftext|>Hello")
