"""The command line: subcommands of plugins, and errors as one sentence."""

import logging
import re
import subprocess
import sys
from typing import Any

import pytest

from sensorium.cli import main
from sensorium.logger import logger

SNIFF = """
from sensorium.errors import ConfigError
from sensorium.plugins import Command, hookimpl
api = 2

def add_arguments(parser):
    parser.add_argument("--times", type=int, default=1)

def run(arguments):
    if arguments.times == 0:
        raise ConfigError("times is 0; it must be at least 1.")
    if arguments.times < 0:
        raise KeyboardInterrupt
    print("sniff " * arguments.times)
    return 7 if arguments.times > 2 else 0

@hookimpl
def sensorium_commands():
    return [Command("sniff", "smell 100% of it", add_arguments, run)]
"""


def test_a_plugins_command_runs_with_its_options(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    assert main(["sniff", "--times", "2"]) == 0
    assert capsys.readouterr().out == "sniff sniff \n"
    assert main(["sniff", "--times", "3"]) == 7


def test_an_error_is_one_sentence(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    assert main(["sniff", "--times", "0"]) == 1
    assert capsys.readouterr().err == "sensorium: times is 0; it must be at least 1.\n"


def test_ctrl_c_ends_it(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    assert main(["sniff", "--times", "-1"]) == 130
    assert capsys.readouterr().err == "sensorium: interrupted\n"


def test_help_lists_all_commands(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert "smell 100% of it" in out
    assert "plugins" in out
    assert main(["sniff", "--help"]) == 0
    assert "--times" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["sniff", "--colour"], ["--colour"], ["plugins", "x"]])
def test_wrong_arguments_are_2(plug: Any, capsys: Any, arguments: list[str]) -> None:
    plug("noses", SNIFF)
    assert main(arguments) == 2
    assert "usage: sensorium" in capsys.readouterr().err


def test_an_unknown_command_is_told_with_the_causes(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    plug("broken", "import no_such_module")
    assert main(["serve", "--port", "1"]) == 1
    err = capsys.readouterr().err
    assert "No installed plugin brings the command 'serve' (known: plugins, sniff)." in err
    assert "broken:main: importing broken_plugin_of_test raised ModuleNotFoundError" in err
    assert err.count("\n") == 1


def test_a_command_that_two_claim_is_told(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    plug("snouts", SNIFF)
    assert main(["sniff", "--times", "2"]) == 1
    assert capsys.readouterr().err == (
        "sensorium: command:sniff is claimed by noses and snouts; uninstall all but one.\n"
    )
    assert main(["--help"]) == 0
    assert "in conflict" in capsys.readouterr().out
    assert main(["plugins"]) == 0
    assert "command:sniff is claimed by noses and snouts" in capsys.readouterr().out


def test_a_command_whose_options_fail_is_told(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF.replace("parser.add_argument(", "parser.no_such_method("))
    assert main(["sniff"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("sensorium: The command 'sniff' doesn't work: declaring its options ")
    assert main(["plugins"]) == 0


def test_plugins_lists_what_works_and_what_failed(plug: Any, capsys: Any) -> None:
    plug("noses", SNIFF)
    plug("newer", "api = 3")
    plug("empty", "api = 2")
    assert main(["plugins"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "3 plugins, 1 failed; this core serves api = 2.",
        "",
        "empty:main (1.0, module empty_plugin_of_test)",
        "  brings nothing",
        "",
        "newer:main (1.0, module newer_plugin_of_test)",
        "  FAILED: it states api = 3; this sensorium-core serves api = 2",
        "",
        "noses:main (1.0, module noses_plugin_of_test)",
        "  commands:   sniff",
    ]


def test_the_log_level_is_checked_and_the_handler_taken_back(
    plug: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(logger.handlers)
    monkeypatch.setenv("SENSORIUM_LOG_LEVEL", "LOUD")
    assert main(["plugins"]) == 1
    assert "SENSORIUM_LOG_LEVEL is 'LOUD'" in capsys.readouterr().err
    assert logger.handlers == before


def test_the_log_goes_to_stderr(plug: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    monkeypatch.setenv("SENSORIUM_LOG_LEVEL", "DEBUG")
    plug("broken", "import no_such_module")
    assert main(["plugins"]) == 0
    captured = capsys.readouterr()
    assert "DEBUG sensorium: importing broken_plugin_of_test raised" in captured.err
    assert "Traceback" in captured.err
    assert "Traceback" not in captured.out


def test_it_runs_as_a_module_and_tells_its_version() -> None:
    command = [sys.executable, "-m", "sensorium", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.fullmatch(r"sensorium \d+\.\d+\.\d+\n", done.stdout)


KINDS = """
from sensorium.errors import MediaError
from sensorium.plugins import MediaKind, hookimpl
from sensorium.types import MediaItem, ValueSource
api = 2

class Scent(MediaKind):
    name = "scent"
    part_types = ("scent",)
    def split(self, value): return [MediaItem("scent", 0, (ValueSource(value[0]),))]
    def parse_part(self, part_type, value): return MediaItem("scent", 0)
    def probe(self, sources): raise MediaError("it is no scent.")
    load = probe
    def digest(self, sources): return bytes(32)

@hookimpl
def sensorium_media_kinds(): return [Scent]
"""


def test_a_plugin_is_checked_without_a_model(plug: Any, capsys: Any) -> None:
    plug("noses", KINDS)
    assert main(["plugins", "check", "Noses"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("ok      noses:main is found and brings what it may\n")
    assert "ok      an object of no form is refused as media" in out
    assert "FAILED" not in out


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("api = 2", "api = 9", "it states api = 9"),
        ("return bytes(32)", "return b''", "Scent.digest of noses returned 0 bytes as a digest"),
        ('MediaItem("scent", 0)', "None", "Scent.parse_part of noses returned None"),
        ('raise MediaError("it is no scent.")', "return sources.size", "raised AttributeError"),
        ("def digest", "def __init__(self, o): 1 / 0\n    def digest", "raised ZeroDivisionError"),
    ],
)
def test_what_a_check_finds_is_told(
    plug: Any, capsys: Any, right: str, wrong: str, told: str
) -> None:
    assert right in KINDS
    plug("noses", KINDS.replace(right, wrong))
    assert main(["plugins", "check", "noses"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")]
    assert any(told in line for line in failed)


def test_a_check_needs_an_installed_distribution(plug: Any, capsys: Any) -> None:
    plug("noses", KINDS)
    assert main(["plugins", "check", "snouts"]) == 1
    assert "No plugin of a distribution 'snouts' is installed (installed: noses)" in (
        capsys.readouterr().err
    )
    assert main(["plugins", "check"]) == 1
    assert "needs the name of a distribution" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ("1 / 0", 1, "The command 'sniff' failed: ZeroDivisionError: division by zero."),
        ("raise BaseException('odd')", 1, "The command 'sniff' failed: BaseException: odd."),
        ("return None", 1, "The command 'sniff' returned None; it must be an exit status."),
        ("raise SystemExit(7)", 7, ""),
    ],
)
def test_a_command_that_fails_is_told(
    plug: Any, capsys: Any, body: str, status: int, message: str
) -> None:
    source = (
        "from sensorium.plugins import Command, hookimpl\n"
        "api = 2\n"
        f"def run(_):\n    {body}\n"
        "@hookimpl\n"
        "def sensorium_commands():\n"
        "    return [Command('sniff', 'smells', lambda parser: None, run)]\n"
    )
    plug("noses", source)
    assert main(["sniff"]) == status
    assert message in capsys.readouterr().err
