"""Where the settings of `sensorium serve` come from, and what is refused."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path

import pytest

from sensorium import ConfigError
from sensorium.config import EngineConfig
from sensorium_server_openai.command.flags import ALL, FLAGS, OTHERS, json_object
from sensorium_server_openai.command.serve import add_arguments
from sensorium_server_openai.command.settings import Settings, gather


def settings(*arguments: str, environment: dict[str, str] | None = None) -> Settings:
    parser = argparse.ArgumentParser("sensorium serve")
    add_arguments(parser)
    return gather(parser.parse_args(list(arguments)), environment or {})


def test_defaults() -> None:
    found = settings("some/model")
    assert found.model == "some/model"
    assert found.server.served_model_names == ("some/model",)
    assert found.engine == {}
    assert not found.server.api_keys


def test_every_flag_goes_where_it_belongs() -> None:
    found = settings(
        *("m", "--max-model-len", "4k", "--limit-mm-per-prompt", '{"scent": 2}'),
        *("--served-model-name", "a", "b", "--api-key", "x", "--api-key", "y,z"),
        *("--max-request-body-mb", "0.5", "--enforce-eager", "--port", "0"),
        *("--no-enable-prefix-caching", "--scheduling-policy", "priority"),
    )
    assert found.engine == {
        "max_model_len": 4000,
        "limit_mm_per_prompt": {"scent": 2},
        "enforce_eager": True,
        "enable_prefix_caching": False,
    }
    assert found.server.served_model_names == ("a", "b")
    assert found.server.api_keys == ("x", "y,z")
    assert found.server.limits.body_bytes == 2**19
    assert found.server.priorities
    assert found.run == {"port": 0}
    assert "x" not in repr(found.server.api_keys.__class__)
    assert "y,z" not in repr(found.server)


#: Of the flags that take only some words.
WORDS = {"log-format": "json", "ssl-cert-reqs": "2"}


@pytest.mark.parametrize("name", [name for name in ALL if name != "scheduling-policy"])
def test_a_flag_sets_its_own_field_and_no_other(name: str) -> None:
    flag = ALL[name]
    needed = ["m", "--tool-call-parser", "hermes"]
    plain = settings(*needed)
    if flag.read is None:
        value = not getattr(plain.server, flag.target, False)
        arguments = [f"--{name}" if value else f"--no-{name}"]
    else:
        text = WORDS.get(name, '{"a": {"b": 1}}' if flag.read is json_object else "3")
        value, arguments = flag.from_text(text), [f"--{name}", text]
    found = settings(*needed, *arguments)
    changed = {flag.target: (value,) if flag.repeats else value}
    if flag.goes_to == "limits":
        changed = {"limits": replace(plain.server.limits, **changed)}
    assert found.engine == (changed if flag.goes_to == "engine" else {})
    assert found.run == (changed if flag.goes_to == "run" else {})
    of_server = flag.goes_to in ("server", "limits")
    assert found.server == (replace(plain.server, **changed) if of_server else plain.server)


def test_private_hosts_all_or_some() -> None:
    name = "--allow-private-media-hosts"
    assert settings("m", name).engine == {"allow_private_media_hosts": True}
    some = settings("m", name, "cdn.local", "10.0.0.0/8").engine
    assert some == {"allow_private_media_hosts": ("cdn.local", "10.0.0.0/8")}
    variable = "SENSORIUM_SERVE_ALLOW_PRIVATE_MEDIA_HOSTS"
    assert settings("m", environment={variable: "true"}).engine == {
        "allow_private_media_hosts": True
    }


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--enable-prefix-caching", {"enable_prefix_caching": True}),
        ("--no-enable-prefix-caching", {"enable_prefix_caching": False}),
        ("--enable-prefix-caching=False", {"enable_prefix_caching": False}),
        ("--enable_chunked_prefill=true", {"enable_chunked_prefill": True}),
        ("--max_model_len=4096", {"max_model_len": 4096}),
        ("--tokenizer=a_b=c", {"tokenizer": "a_b=c"}),
    ],
)
def test_spellings_of_launch_scripts(argument: str, expected: dict[str, object]) -> None:
    assert settings("m", argument).engine == expected


def test_every_flag_of_the_engine_is_an_option_of_it() -> None:
    options = {field.name for field in fields(EngineConfig)}
    flags = {flag.target for flag in ALL.values() if flag.goes_to == "engine"}
    assert flags <= options
    assert options - flags == {"model", "engine_process"}


def test_the_command_line_goes_before_the_environment_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: of-the-file\nport: 1\nmax_num_seqs: 1\ndtype: float32\n"
        "media-io-kwargs: {scent: {strength: 2}}\nserved-model-name: [p, q]\nenforce-eager: true\n"
    )
    found = settings(
        *("--config", str(file), "--port", "3"),
        environment={"SENSORIUM_SERVE_PORT": "2", "SENSORIUM_SERVE_MAX_NUM_SEQS": "2"},
    )
    assert found.model == "of-the-file"
    assert found.run == {"port": 3}
    assert found.engine == {
        "max_num_seqs": 2,
        "dtype": "float32",
        "media_io_kwargs": {"scent": {"strength": 2}},
        "enforce_eager": True,
    }
    assert found.server.served_model_names == ("p", "q")


def test_keys_from_the_environment() -> None:
    found = settings("m", environment={"SENSORIUM_API_KEY": "one,two"})
    assert found.server.api_keys == ("one", "two")


@pytest.mark.parametrize("name", OTHERS)
def test_a_flag_of_others_is_answered_with_ours(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings("m", f"--{name}", "1")
    assert f"There is no --{name} here: {OTHERS[name]}." == str(caught.value)
    assert name not in ALL
    named = [word.strip(".,;") for word in OTHERS[name].split() if word.startswith("--")]
    assert all(word[2:] in ALL for word in named)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--max-model-length", "1"], "--max-model-len"),
        (["--port", "many"], "--port"),
        (["--limit-mm-per-prompt", "{"], "JSON object"),
        (["--limit-mm-per-prompt", "3"], "JSON object"),
        (["--enable-auto-tool-choice"], "--tool-call-parser"),
        (["--scheduling-policy", "lottery"], "priority"),
        (["--log-format", "xml"], "json"),
        (["--max-n", "0"], "--max-n"),
        (["--request-timeout", "-1"], "--request-timeout"),
        (["--api-key", ""], "--api-key"),
        (["--config", "/no/such/file"], "can't be read: No such file"),
        (["--port", "99999"], "0 to 65535"),
        (["--port", "-1"], "0 to 65535"),
        (["--max-model-len", "8x"], "like 4096, 4k or 4K"),
        (["--request-timeout", "inf"], "must be a number"),
        (["--shutdown-timeout", "-5"], "at least 0"),
        (["--ssl-cert-reqs", "3"], "0, 1 or 2"),
        (["-tp", "2"], "--tensor-parallel-size"),
        (["-p", "80"], "no -"),
        (["--no-enable-lora"], "no --no-enable-lora here: adapters"),
        (["another"], "'another' belongs to no flag"),
        (["--enable-prefix-caching", "false"], "--no-SWITCH"),
        (["--enable-prefix-caching=maybe"], "true or false"),
        (["--limit-mm-per-prompt.scent", "2"], "--limit-mm-per-prompt '{\"scent\": VALUE}'"),
    ],
)
def test_what_cannot_hold_is_refused_by_name(arguments: list[str], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        settings("m", *arguments)


@pytest.mark.parametrize(
    ("text", "word"),
    [("prot: 1", "--port"), ("- a", "map"), ("a: [", "YAML"), ("enforce-eager: 3", "true or false"),
     ("swap-space: 3", "swapped"), ("model:", "model has no value"),
     ("api-key:", "api-key has no value"), ("served-model-name: [a, null]", "has no value"),
     ("port: 1\nport: 2", "twice"), ("max-n: 1\nmax_n: 2", "twice"),
     ("limit-mm-per-prompt: {a: 1, a: 2}", "twice"), ("limit-mm-per-prompt: [1]", "JSON object"),
     ("port: 1.5", "whole number"), ("host: [a, b]", "one value")],
)  # fmt: skip
def test_a_file_that_cannot_hold_is_refused(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=word):
        settings("m", "--config", str(file))


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("SENSORIUM_SERVE_PROT", "80", "nearest is SENSORIUM_SERVE_PORT"),
        ("SENSORIUM_SERVE_PORT", "tcp://10.0.0.1:80", "SENSORIUM_SERVE_PORT: --port is"),
        ("SENSORIUM_SERVE_ENFORCE_EAGER", "maybe", "true or false"),
    ],
)
def test_a_variable_that_cannot_hold_is_refused(variable: str, value: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        settings("m", environment={variable: value})


def test_no_model_is_asked_for() -> None:
    with pytest.raises(ConfigError, match="Which model"):
        settings()


def test_help_has_every_flag_under_its_topic() -> None:
    parser = argparse.ArgumentParser("sensorium serve")
    add_arguments(parser)
    text = parser.format_help()
    assert all(f"\n{heading}:\n" in text for heading in FLAGS)
    assert all(f"--{name}" in text for name in ALL)
