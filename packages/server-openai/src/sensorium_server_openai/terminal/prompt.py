"""``talk``: reads questions and commands, and shows answers as they come.

Ctrl-C stops an answer; at the prompt it ends the chat, as does the end of the input.
"""

from __future__ import annotations

import contextlib
import sys
import time
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from sensorium.errors import SensoriumError
from sensorium_server_openai.media_files import MediaFiles
from sensorium_server_openai.terminal.backend import Backend, Options
from sensorium_server_openai.terminal.conversation import Conversation


def talk(
    backend: Backend,
    conversation: Conversation,
    options: Options,
    kinds: Sequence[MediaFiles],
    once: str | None = None,
) -> int:
    """Chats until the end of the input, or asks ``once``; returns the exit status.

    Raises:
        SensoriumError: the question of ``once`` failed.
    """
    if once is not None:
        show_answer(backend, conversation, options, once)
        return 0
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (line editing and history for `input`)
    print(f"Chatting with {backend.model}. /help lists the commands.")
    while (line := _read_line(conversation)) is not None:
        try:
            if not line.startswith("/"):
                show_answer(backend, conversation, options, line)
            elif not obey(line, conversation, kinds):
                return 0
        except SensoriumError as error:
            print(f"! {error}", file=sys.stderr)
    print()
    return 0


def _read_line(conversation: Conversation) -> str | None:
    """The next line that says something; None: there is none."""
    try:
        while True:
            files = f" [{', '.join(conversation.attached)}]" if conversation.attached else ""
            if line := input(f"you{files}> ").strip():
                return line
    except (EOFError, KeyboardInterrupt):
        return None


def obey(line: str, conversation: Conversation, kinds: Sequence[MediaFiles]) -> bool:
    """Does what a command says; False: it ends the chat.

    Raises:
        ConfigError: a file that can't be read.
    """
    name, _, rest = line[1:].partition(" ")
    by_name = {entry.kind: entry for entry in kinds}
    if name in ("quit", "exit"):
        return False
    if name == "new":
        conversation.begin_anew()
        print("A new conversation.")
    elif name == "history":
        for message in conversation.messages:
            print(f"{message['role']}: {_text_of(message['content'])}")
    elif name in by_name and rest.strip():
        conversation.attach(by_name[name], Path(rest.strip()))
    else:
        if name != "help":
            print(f"There is no command /{printable(line[1:])}.")
        for shown, text in _commands(kinds):
            print(f"  {shown:<18}{text}")
    return True


def _commands(kinds: Sequence[MediaFiles]) -> list[tuple[str, str]]:
    files = [
        (f"/{e.kind} FILE", f"of {', '.join(e.media_types)}, with the question") for e in kinds
    ]
    return [
        *files,
        ("/history", "shows the conversation"),
        ("/new", "begins another, without what was attached"),
        ("/quit", "ends the chat, as Ctrl-D does"),
        ("Ctrl-C", "stops an answer"),
    ]


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return printable(content)
    assert isinstance(content, list)
    return " ".join(printable(part.get("text", f"[{part['type']}]")) for part in content)


def show_answer(backend: Backend, conversation: Conversation, options: Options, text: str) -> None:
    """Asks, prints the answer as it comes, and then its tokens and times.

    Raises:
        SensoriumError: the question failed; it is taken back.
    """
    conversation.ask(text)
    said = ""
    num_prompt_tokens = num_tokens = first_s = None
    stopped = False
    begun_s = time.monotonic()
    try:
        with closing(backend.answer(conversation.messages, options)) as pieces:  # type: ignore[type-var]
            for piece in pieces:
                if piece.text:
                    first_s = first_s or time.monotonic() - begun_s
                    said += piece.text
                    print(printable(piece.text), end="", flush=True)
                num_prompt_tokens = piece.num_prompt_tokens or num_prompt_tokens
                num_tokens = piece.num_tokens or num_tokens
    except KeyboardInterrupt:
        stopped = True
    except SensoriumError:
        print(end="\n" if said else "")
        conversation.take_back()
        raise
    print()
    if stopped and not said:
        conversation.take_back()
    else:
        conversation.take_in(said)
    figures = [f"{num_prompt_tokens} prompt tokens"] if num_prompt_tokens else []
    figures += [f"{num_tokens} answer tokens"] if num_tokens else []
    figures += [f"first after {first_s:.2f} s"] if first_s else []
    figures += [f"{time.monotonic() - begun_s:.2f} s in all"]
    print(f"({', '.join([*figures, *(['stopped'] if stopped else [])])})", file=sys.stderr)


def printable(text: str) -> str:
    """Text without control characters: what a model says must not steer the terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")
