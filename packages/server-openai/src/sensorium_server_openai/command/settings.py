"""``Settings``: every flag's value, from the command line, the environment and ``--config``."""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from sensorium import ConfigError
from sensorium.config import EngineConfig
from sensorium_server_openai.command.flags import ALL, OTHERS, VARIABLES, Flag, json_object
from sensorium_server_openai.options import Limits, ServerOptions

_API_KEY = "SENSORIUM_API_KEY"
_CONFIG = VARIABLES + "CONFIG"
_MODEL = Flag("model", "", str)


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for.

    Attributes:
        model: a folder or a hub name.
        engine: options of ``EngineConfig``.
        server: how the application behaves.
        run: host, port, TLS and the end.
    """

    model: str
    engine: Mapping[str, Any]
    server: ServerOptions
    run: Mapping[str, Any] = field(default_factory=dict)


def gather(arguments: Namespace, environment: Mapping[str, str]) -> Settings:
    """Reads the settings.

    Raises:
        ConfigError: a flag that doesn't exist or can't hold, with the nearest that does.
    """
    given: dict[str, Any] = {}
    config_file = arguments.config or environment.get(_CONFIG)
    model: str | None = None
    if config_file:
        in_file = read_config(Path(config_file))
        model = in_file.pop("model", None)
        given.update(in_file)
    _check_variables(environment)
    for name, flag in ALL.items():
        if flag.variable in environment:
            given[name] = flag.from_variable(environment[flag.variable])
    if environment.get(_API_KEY) and "api-key" not in given:
        given["api-key"] = ALL["api-key"].from_variable(environment[_API_KEY])
    for name in ALL:
        value = getattr(arguments, _destination(name), None)
        if value is not None:
            given[name] = value
    model = arguments.model or model
    if model is None:
        raise ConfigError("Which model? Run `sensorium serve MODEL`, a folder or a hub name.")
    return _sorted_out(str(model), given)


def read_config(file: Path) -> dict[str, Any]:
    """A YAML file's settings, by flag; ``model`` among them.

    Raises:
        ConfigError: it can't be read, or has a key that is no flag.
    """
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), _OnceEach) or {}
    except OSError as error:
        raise ConfigError(f"--config {file} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {file} is not UTF-8.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"--config {file} is no valid YAML: {error}.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"--config {file} must map flags to values.")
    settings: dict[str, Any] = {}
    for key, value in found.items():
        name = str(key).replace("_", "-")
        if name in settings:
            raise ConfigError(f"--config {file} has {name} twice.")
        if name == "model":
            settings[name] = _MODEL.from_config(value)
        elif name in ALL:
            settings[name] = ALL[name].from_config(value)
        else:
            raise unknown_flag(name, f"--config {file}: ")
    return settings


class _OnceEach(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which no mapping has a key twice: the first would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            keys.add(key.value)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _check_variables(environment: Mapping[str, str]) -> None:
    """Refuses a variable that looks like a flag's and is none's."""
    known = {flag.variable for flag in ALL.values()} | {_CONFIG}
    for variable in environment:
        if variable.startswith(VARIABLES) and variable not in known:
            near = difflib.get_close_matches(variable, known, n=1)
            hint = f" The nearest is {near[0]}." if near else ""
            raise ConfigError(f"The variable {variable} belongs to no flag.{hint}")


def unknown_flag(name: str, where: str = "") -> ConfigError:
    """The error of a flag that isn't here; one of vLLM's is answered with ours."""
    if ours := OTHERS.get(name) or OTHERS.get(name.removeprefix("no-")):
        return ConfigError(f"{where}There is no --{name} here: {ours}.")
    head, dot, key = name.partition(".")
    if dot and head in ALL and ALL[head].read is json_object:
        return ConfigError(
            f"{where}There is no --{name} here: pass --{head} '{{\"{key}\": VALUE}}'."
        )
    near = difflib.get_close_matches(name, ALL, n=1)
    hint = f" The nearest is --{near[0]}." if near else " See `sensorium serve --help`."
    return ConfigError(f"{where}There is no --{name}.{hint}")


def _destination(name: str) -> str:
    return "flag_" + name.replace("-", "_")


def _sorted_out(model: str, given: Mapping[str, Any]) -> Settings:
    parts: dict[str, dict[str, Any]] = {"engine": {}, "server": {}, "limits": {}, "run": {}}
    known = {field.name for field in fields(EngineConfig)}
    for name, value in given.items():
        flag: Flag = ALL[name]
        if flag.goes_to == "engine" and flag.target not in known:
            raise ConfigError(f"--{name} needs a newer sensorium-core than the one installed.")
        parts[flag.goes_to][flag.target] = tuple(value) if isinstance(value, list) else value
    server, run = parts["server"], parts["run"]
    policy = run.pop("scheduling_policy", "fcfs")
    if policy not in ("fcfs", "priority"):
        raise ConfigError(f"--scheduling-policy is {policy!r}; allowed are fcfs and priority.")
    if server.get("log_format", "text") not in ("text", "json"):
        raise ConfigError(f"--log-format is {server['log_format']!r}; allowed are text and json.")
    if any(not key for key in server.get("api_keys", ())):
        raise ConfigError("--api-key is empty.")
    server.setdefault("served_model_names", (model,))
    if server.get("auto_tool_choice") and not server.get("tool_parser"):
        raise ConfigError("--enable-auto-tool-choice needs --tool-call-parser.")
    limits = _limits(parts["limits"])
    options = ServerOptions(**server, priorities=policy == "priority", limits=limits)
    return Settings(model, parts["engine"], options, run)


def _limits(given: Mapping[str, Any]) -> Limits:
    for flag in ALL.values():
        if flag.goes_to == "limits" and flag.target in given:
            value = given[flag.target]
            lowest = 0 if flag.target == "request_s" else 1
            if value < lowest:
                raise ConfigError(f"--{flag.name} is {value:g}; it must be at least {lowest}.")
    return Limits(**given)
