"""Log-probabilities in the two shapes that OpenAI has for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sensorium import Logprob, RequestOutput
from sensorium.outputs import CompletionOutput

#: JSON has no minus infinity.
_LOWEST = -9999.0
Entries = Sequence[Mapping[int, Logprob] | None]


def chat_logprobs(answer: CompletionOutput, num_top: int, *, as_ids: bool) -> dict[str, Any] | None:
    """A chat answer's: one entry a token; None where none were asked for."""
    if answer.logprobs is None:
        return None
    content = []
    for token_id, entries in zip(answer.token_ids, answer.logprobs, strict=False):
        entry = _entry(token_id, entries[token_id], as_ids)
        entry["top_logprobs"] = [
            _entry(top_id, logprob, as_ids) for top_id, logprob in _best(entries, num_top)
        ]
        content.append(entry)
    return {"content": content}


def completion_logprobs(
    token_ids: Sequence[int],
    logprobs: Entries,
    num_top: int,
    *,
    as_ids: bool,
    offset: int = 0,
    first_text: str = "",
) -> dict[str, Any]:
    """A completion's: four parallel lists.

    Args:
        offset: characters of the text in front of the first token.
        first_text: of a first token that nothing is known of, an echoed prompt's.
    """
    found: dict[str, list[Any]] = {
        "text_offset": [],
        "token_logprobs": [],
        "tokens": [],
        "top_logprobs": [],
    }
    for token_id, entries in zip(token_ids, logprobs, strict=False):
        chosen = None if entries is None else entries.get(token_id)
        unknown = chosen is None and first_text and not as_ids
        text = first_text if unknown else _text(token_id, chosen, as_ids=as_ids)
        first_text = ""
        found["text_offset"].append(offset)
        found["tokens"].append(text)
        found["token_logprobs"].append(None if chosen is None else _number(chosen.logprob))
        top = None
        if entries is not None and num_top:
            best = _best(entries, num_top)
            top = {_text(i, p, as_ids=as_ids): _number(p.logprob) for i, p in best}
        found["top_logprobs"].append(top)
        offset += len(text)
    return found


def prompt_logprobs(entries: Entries | None) -> list[Any] | None:
    """The prompt's, by token id, as vLLM writes them."""
    if entries is None:
        return None
    return [
        None
        if entry is None
        else {
            str(token_id): {
                "logprob": _number(logprob.logprob),
                "rank": logprob.rank,
                "decoded_token": logprob.decoded_token,
            }
            for token_id, logprob in entry.items()
        }
        for entry in entries
    ]


def num_logprobs(output: RequestOutput) -> int:
    """How many log-probabilities an output has, roughly."""
    listed = [output.prompt_logprobs, *(answer.logprobs for answer in output.outputs)]
    return sum(len(found) * max(1, len(found[-1] or ())) for found in listed if found)


def _entry(token_id: int, logprob: Logprob, as_ids: bool) -> dict[str, Any]:
    text = _text(token_id, logprob, as_ids=as_ids)
    plain = logprob.decoded_token or ""
    return {
        "token": text,
        "logprob": _number(logprob.logprob),
        "bytes": list(plain.encode("utf-8", errors="replace")),
    }


def _best(entries: Mapping[int, Logprob], num_top: int) -> list[tuple[int, Logprob]]:
    """The ``num_top`` best, the first of them first; -1 asks for all there are."""
    wanted = len(entries) if num_top == -1 else num_top
    ranked = [pair for pair in entries.items() if (pair[1].rank or 0) <= wanted]
    return sorted(ranked, key=lambda pair: pair[1].rank or 0)[:wanted]


def _text(token_id: int, logprob: Logprob | None, *, as_ids: bool) -> str:
    if as_ids or logprob is None:
        return f"token_id:{token_id}"
    return logprob.decoded_token or ""


def _number(value: float) -> float:
    return value if math.isfinite(value) else _LOWEST
