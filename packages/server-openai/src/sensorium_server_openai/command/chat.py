"""``sensorium chat``: the command. A model in this process, or one that a server has."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from sensorium import ConfigError
from sensorium_server_openai.media_files import MediaFiles, files_of
from sensorium_server_openai.terminal.backend import Backend, Options

HELP = "chat in the terminal with a model in this process, or with a server"

_FILES = "chat_files"
#: Flags of our own; a kind of such a name is given with /NAME alone.
_TAKEN = ("help", "url", "api-key", "system", "temperature", "max-tokens", "ask")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the flags, one for each installed kind that takes files."""
    from sensorium.plugins.discovery import discover

    parser.add_argument(
        "model", nargs="?", help="a folder or a name; with --url: what the server calls it"
    )
    parser.add_argument("--url", help="a server's address, like http://127.0.0.1:8000")
    parser.add_argument("--api-key", metavar="KEY", help="for the server (also: SENSORIUM_API_KEY)")
    parser.add_argument("--system", metavar="TEXT", help="instructions to the model")
    parser.add_argument("--temperature", type=float, help="of sampling (default: the model's own)")
    parser.add_argument(
        "--max-tokens", type=int, default=512, help="tokens of an answer (default: 512)"
    )
    parser.add_argument("--ask", metavar="TEXT", help="ask this once, and end")
    kinds = files_of(discover().kinds)
    parser.set_defaults(chat_kinds=kinds)
    for entry in kinds:
        types = ", ".join(entry.media_types)
        if entry.kind not in _TAKEN:
            parser.add_argument(
                f"--{entry.kind}",
                dest=_FILES,
                action=_Attach,
                files=entry,
                metavar="FILE",
                help=f"goes with the first question, and may be repeated ({types})",
            )


class _Attach(argparse.Action):
    """Keeps the files of all kinds in the order in which they were given."""

    def __init__(self, *arguments: object, files: MediaFiles, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._files = files

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, _FILES, None) or []
        setattr(namespace, _FILES, [*before, (self._files, Path(str(values)))])


def run(arguments: argparse.Namespace) -> int:
    """Chats until the end of the input; returns the exit status.

    Raises:
        ConfigError, PluginError: no model, or one that can't chat; a file that can't be read.
        RequestError: the question of ``--ask`` failed.
    """
    from sensorium_server_openai.terminal.conversation import Conversation
    from sensorium_server_openai.terminal.prompt import talk

    options = Options(arguments.temperature, arguments.max_tokens)
    conversation = Conversation(arguments.system)
    for entry, file in getattr(arguments, _FILES, None) or ():
        conversation.attach(entry, file)
    with closing(_backend(arguments)) as backend:
        return talk(backend, conversation, options, arguments.chat_kinds, arguments.ask)


def _backend(arguments: argparse.Namespace) -> Backend:
    if arguments.url is not None:
        from sensorium_server_openai.terminal.server_backend import ServerBackend

        key = arguments.api_key or os.environ.get("SENSORIUM_API_KEY")
        return ServerBackend(arguments.url, key, arguments.model)
    if arguments.api_key is not None:
        raise ConfigError("--api-key goes with --url.")
    if arguments.model is None:
        raise ConfigError("Which model? Run `sensorium chat MODEL` or `sensorium chat --url URL`.")
    from sensorium_server_openai.terminal.engine_backend import EngineBackend

    print(f"Loading {arguments.model}…", file=sys.stderr, flush=True)
    return EngineBackend(arguments.model)
