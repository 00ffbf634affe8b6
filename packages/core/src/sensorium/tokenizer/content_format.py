"""What a chat template does with a message's content: iterate over parts, or print a string.

Two messages are rendered to see: one whose content is two parts, one whose content is a string. A
template that prints both parts' texts in order, and nothing of the list itself, iterates over
parts, however it reaches them. Knows nothing of templates' syntax.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from sensorium.errors import RequestError

logger = logging.getLogger("sensorium.tokenizer")

ContentFormat = Literal["openai", "string"]
Render = Callable[[Sequence[Mapping[str, Any]]], str]

_FIRST, _SECOND = "firstprobe", "secondprobe"
#: Text that appears where the template prints the whole list.
_LIST_PRINTED = re.compile(r"""['"]text['"]\s*:""")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a template takes as a message's content.

    Attributes:
        content_format: "openai", a list of parts, or "string".
        takes_strings: a plain string as well, where it iterates over parts.
    """

    content_format: ContentFormat
    takes_strings: bool


def probe_contents(render: Render, source: str | None) -> Contents:
    """Finds the format by rendering; where neither probe is printed, logs that once and takes
    strings.

    Args:
        render: a conversation → its text, or ``RequestError``.
        source: the template, to log what is unclear once; None: nothing is logged.
    """
    parts = [{"type": "text", "text": text} for text in (_FIRST, _SECOND)]
    takes_strings = any(_FIRST in text for text in _rendered(render, _FIRST))
    if any(_prints_parts(text) for text in _rendered(render, parts)):
        return Contents("openai", takes_strings)
    if not takes_strings and source is not None:
        _log_unclear(source)
    return Contents("string", takes_strings=True)


def _prints_parts(text: str) -> bool:
    first, second = text.find(_FIRST), text.find(_SECOND)
    return 0 <= first < second and not _LIST_PRINTED.search(text, max(0, first - 40), second)


def _rendered(render: Render, content: Any) -> Iterator[str]:
    """The probe in conversations of the shapes that some templates require."""
    user = {"role": "user", "content": content}
    system = {"role": "system", "content": content}
    answer = {"role": "assistant", "content": content}
    for conversation in ([user], [system, user], [user, answer, user]):
        try:
            yield render(conversation)
        except RequestError:
            continue


@lru_cache(maxsize=32)
def _log_unclear(source: str) -> None:
    logger.warning(
        "It is unclear whether the chat template wants a message's content as text or as a list of "
        'parts: it prints neither (%s…). Text is used; chat_template_content_format="openai" '
        "makes it parts.",
        " ".join(source[:60].split()),
    )
